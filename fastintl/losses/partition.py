"""Random orders that are a pure function of the position in a run, uploaded without waiting for the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastintl.losses.base import Position
from loaders.philox import Domain, philox
from loaders.upload import upload


def random_orders(position: Position | None, device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    """An int64 tensor for each shape, every row along its last dimension a random permutation.

    Args:
        position: what the orders depend on; its epoch does not matter, and None draws from torch's global generator.
    """
    if position is None:
        seed = int(torch.randint(2**62, ()))
        position = Position(seed, step=0, epoch=0, rank=0)
    count = sum(int(np.prod(shape)) for shape in shapes)
    words = philox(position.seed, np.arange((count + 1) // 2), position.step, position.rank, Domain.PARTITION)
    keys = (words[:, 0::2] << np.uint64(32) | words[:, 1::2]).ravel()  # 64 bits, so that none are equal
    orders, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        orders.append(np.argsort(keys[start : start + size].reshape(shape), axis=-1, kind="stable"))
        start += size
    return upload(orders, device)
