"""The colour operations in torch: each on those images of a batch that drew it. The formulas are ``reference.py``'s."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from loaders.multicrop.draws import (
    BLUR_SIGMA,
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    JITTER_ORDER,
    JITTER_ORDERS,
    SATURATION,
    SOLARIZE,
)
from loaders.multicrop.reference import GREY_WEIGHTS

# Takes images (n, 3, s, s) in [0, 1] and their rows of the draws.
Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def steps(draws: np.ndarray) -> tuple[list[Operation], list[np.ndarray]]:
    """The operations of one view's draws (n, COLUMNS) in their order, and the samples that each applies to."""
    orders = draws[:, JITTER_ORDER].astype(np.int64)
    jitter = np.where(orders[:, None] >= 0, JITTER_ORDERS[orders], -1)
    applies: list[tuple[Operation, np.ndarray]] = []
    for step in range(4):
        applies += [(operation, jitter[:, step] == which) for which, operation in enumerate(_JITTER)]
    reach = math.ceil(3 * float(draws[:, BLUR_SIGMA].max()))
    applies += [
        (_grayscale, draws[:, GRAYSCALE] > 0),
        (partial(_blur, reach=reach), draws[:, BLUR_SIGMA] > 0),
        (_solarize, draws[:, SOLARIZE] > 0),
    ]
    applies = [(operation, np.flatnonzero(some)) for operation, some in applies if some.any()]
    return [operation for operation, _ in applies], [some for _, some in applies]


def colour(
    images: torch.Tensor,
    draws: torch.Tensor,
    operations: list[Operation],
    samples: list[torch.Tensor],
) -> None:
    """Applies operations to some of the images (n, 3, s, s), in place; all arguments lie on the images' device."""
    for operation, some in zip(operations, samples, strict=True):
        images.index_copy_(0, some, operation(images.index_select(0, some), draws.index_select(0, some)))


def _factors(draws: torch.Tensor, column: int) -> torch.Tensor:
    return draws[:, column, None, None, None]


def _luma(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = (weight * images[:, i : i + 1] for i, weight in enumerate(GREY_WEIGHTS))
    return red + green + blue


def _brightness(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return (images * _factors(draws, BRIGHTNESS)).clamp_(0, 1)


def _contrast(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    factors = _factors(draws, CONTRAST)
    return (images * factors + (1 - factors) * _luma(images).mean(dim=(2, 3), keepdim=True)).clamp_(0, 1)


def _saturation(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    factors = _factors(draws, SATURATION)
    return (images * factors + (1 - factors) * _luma(images)).clamp_(0, 1)


def _hue(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    not_red = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sextant = torch.where(value == red, (green - blue) / safe, not_red) + 6 * _factors(draws, HUE)
    offsets = 5 - 2 * torch.arange(3, device=images.device)[:, None, None]
    turned = (sextant + offsets) % 6
    return value - chroma * turned.minimum(4 - turned).clamp_(0, 1)


_JITTER = (_brightness, _contrast, _saturation, _hue)  # as numbered in JITTER_ORDERS


def _grayscale(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return _luma(images).expand_as(images)


def _solarize(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return torch.where(images >= 128 / 255, 1 - images, images)


def _blur(images: torch.Tensor, draws: torch.Tensor, reach: int) -> torch.Tensor:
    """One product of matrices along each axis; ``reach`` is the largest radius."""
    size, device = images.shape[2], images.device
    sigma = draws[:, BLUR_SIGMA, None].double()
    distance = torch.arange(-reach, reach + 1, device=device)
    kernels = torch.where(distance.abs() <= (3 * sigma).ceil(), torch.exp(-0.5 * (distance / sigma) ** 2), 0)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).float()
    # Position k of the kernel reads, for pixel y, the pixel where y + k is mirrored to.
    pixels = torch.arange(size, device=device)
    read = (pixels[:, None] + distance[:, None, None]).abs() % max(2 * size - 2, 1)
    read = torch.where(read >= size, 2 * size - 2 - read, read)
    spread = (read == pixels).float().reshape(len(distance), size * size)
    work = torch.float16 if device.type == "cuda" else torch.float32
    matrices = (kernels @ spread).reshape(-1, size, size).to(work)
    across = images.to(work).reshape(-1, 3 * size, size) @ matrices.transpose(1, 2)
    return (matrices[:, None] @ across.reshape(-1, 3, size, size)).float()
