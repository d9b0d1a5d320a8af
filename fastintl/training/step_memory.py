"""The memory that a training step keeps for its backward pass, counted without computing anything."""

from __future__ import annotations

import torch
from torch import Tensor

from fastintl.config import Config
from fastintl.distributed import World
from fastintl.training.build import build_model

# A view's pixel keeps less but in the widest networks with the stem cifar: ResNet-50 1,700 bytes, and 27,000 there.
_MOST_OF_A_PIXEL = 1 << 15


def shortage(config: Config, world: World, dtype: torch.dtype, free: int) -> str | None:
    """A sentence where a CPU's step would keep more than the memory that is free; None elsewhere, or if unknown.

    Args:
        dtype: of autocast; what other formats than float32 keep is not counted here, nor what compiled code keeps.
        free: bytes.
    """
    known = world.device.type == "cpu" and world.world_size == 1
    known = known and dtype == torch.float32 and config.train.compile != "on"
    pixels = config.train.batch_size * sum(size**2 for size in config.crops.sizes)
    if not known or pixels * _MOST_OF_A_PIXEL <= free:  # to count takes a second or more
        return None
    kept = kept_bytes(config)
    if kept <= free:
        return None
    return (
        f"a step keeps {kept / 1e9:.3g} GB for its backward pass, and {free / 1e9:.3g} GB are free: lower "
        "train.batch_size, or train on a GPU"
    )


def kept_bytes(config: Config) -> int:
    """Bytes that autograd holds after the forward pass of a step on one rank, in float32 and uncompiled: the least that
    the step needs beside parameters, gradients and momenta."""
    with torch.device("meta"):
        model = build_model(config.model)
        views = [torch.empty(config.train.batch_size, 3, size, size) for size in config.crops.sizes]
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage  # held, so that no other gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(views)
    return sum(storage.nbytes() for storage in kept.values())
