"""The memory that a training step keeps for its backward pass, counted without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastintl.config import Config
from fastintl.distributed import World
from fastintl.network import lockstep
from fastintl.network.names import named_network
from fastintl.training.build import build_model
from fastintl.training.optim import states_a_parameter

# A view's pixel keeps less but in the widest networks with the stem cifar: ResNet-50 1,700 bytes, and 27,000 there.
_MOST_OF_A_PIXEL = 1 << 15


def gpu_shortage(config: Config, ranks: int, needed: int, memory: int) -> str | None:
    """A sentence where a GPU needs more bytes for a step (``least_gpu_bytes``) than its memory has, else None."""
    if needed <= memory:
        return None
    recompute = "" if config.train.recompute == "on" else "set train.recompute=on, "
    return (
        f"a step of {config.train.batch_size // ranks} images needs at least {needed / 1e9:.3g} GB of a GPU's memory, "
        f"and this one has {memory / 1e9:.3g} GB: {recompute}share the batch among more GPUs, or lower train.batch_size"
    )


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


def least_gpu_bytes(config: Config, ranks: int, dtype: torch.dtype) -> int:
    """Bytes of its memory that a GPU needs at the least for its share of a step: weights, and what autograd holds.

    Measured on an H100, rcfgs/ep100.yaml with 256 images in bf16: 35.8 GB compiled and 36.9 GB not, where this says
    33.2 GB.
    """
    return weight_bytes(config) + kept_bytes(config, ranks) * dtype.itemsize // 4


def weight_bytes(config: Config) -> int:
    """Bytes of parameters, gradients, momenta and the EMA target, in float32; 0 where a network cannot be counted."""
    return _or_zero(config, _weight_bytes)


def _or_zero(config: Config, count: Callable[[Config], int]) -> int:
    """What ``count`` finds; 0 where another network than a ResNet asks for values, of which there are none here."""
    try:
        return count(config)
    except Exception:
        if named_network(config.model.arch) is None:
            raise
        return 0


def _weight_bytes(config: Config) -> int:
    with torch.device("meta"):
        model = build_model(config.model, config.crops.sizes)
    learning = sum(parameter.numel() for parameter in model.encoder.parameters())
    target = sum(p.numel() for p in model.target.parameters()) if model.target is not None else 0
    return 4 * (learning * (2 + states_a_parameter(config.optim)) + target)


def kept_bytes(config: Config, ranks: int = 1) -> int:
    """Bytes that autograd holds in a step on one rank, in float32 and uncompiled: the least that the step needs beside
    parameters, gradients and momenta.

    Under ``train.recompute`` those are the inputs of all blocks and what the largest one keeps while it runs again.
    Another network than a ResNet may not be countable so: then 0.
    """
    return _or_zero(config, partial(_kept_bytes, ranks=ranks))


def _kept_bytes(config: Config, ranks: int) -> int:
    with torch.device("meta"):
        model = build_model(config.model, config.crops.sizes)
        views = [torch.empty(config.train.batch_size // ranks, 3, size, size) for size in config.crops.sizes]
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    if config.train.recompute == "off":
        return _kept(lambda: model(views), parameters)[1]
    if not model.in_lockstep:
        return 0
    inputs, inside = [], []

    def counted(region: lockstep.Region) -> lockstep.Region:
        def run(*arguments: Any) -> list[Tensor]:
            outputs, kept = _kept(lambda: region(*arguments), parameters)
            inside.append(kept)
            inputs.append(sum(x.nbytes for x in outputs if x.requires_grad))
            return outputs

        return run

    model.regions = lockstep.Regions(*(counted(region) for region in (lockstep.stem, lockstep.block, lockstep.head)))
    model(views)
    return sum(inputs) + max(inside)


def _kept(function: Callable[[], Any], parameters: set[int]) -> tuple[Any, int]:
    """What a function returns, and the bytes that its backward pass holds, parameters left out."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage  # held, so that no other gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = function()
    return result, sum(storage.nbytes() for storage in kept.values())
