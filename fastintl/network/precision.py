"""The number format of the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from loaders.errors import UserError

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The format for ``torch.autocast``; float32 means none.

    Args:
        precision: ``"bf16"``, ``"fp16"``, ``"fp32"``, or ``"auto"``: bf16 on Ampere and later, fp16 on Volta and
            Turing (which compute bf16 without their matrix units), float32 on the CPU.

    Raises:
        UserError: fp16 on the CPU, which has no gradient scaling worth its cost there.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision=fp16 (--precision fp16 of a tool) needs a GPU: choose bf16 or fp32 on the CPU")
    if precision != "auto":
        return FORMATS[precision]
    if device.type == "cpu":
        return torch.float32
    return gpu_format(torch.cuda.get_device_capability(device))


def gpu_format(capability: tuple[int, int]) -> torch.dtype:
    """What ``"auto"`` is on a GPU of this CUDA capability."""
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context of a forward pass in ``dtype``, which float32 leaves as it is."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def resume_scaler(scaler: torch.amp.GradScaler, state: Mapping[str, Any]) -> None:
    """Loads a gradient scaler's state. A run that moves from a GPU with bf16 to one without has none: the scaler then
    begins as in a new run."""
    if state:
        scaler.load_state_dict(dict(state))
