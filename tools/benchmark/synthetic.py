"""Views of noise, which cost a step what images would, and waiting for the device that works on them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from fastintl.config import Config


def synthetic_views(
    config: Config, device: torch.device, dtype: torch.dtype, channels_last: bool, ranks: int = 1
) -> list[Tensor]:
    """One rank's views of noise in the recipe's sizes, (B / W, 3, s, s) each."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shapes = [(config.train.batch_size // ranks, 3, size, size) for size in config.crops.sizes]
    views = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]
    return [view.contiguous(memory_format=memory_format) for view in views]


def seconds_of(action: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """How long so many times an action take, until the device has done what it was given."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        action()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
