"""Where in its image a crop lies, as an affine map along each axis: one form for random boxes and the centre crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loaders.multicrop.draws import HEIGHT, LEFT, TOP, WIDTH
from loaders.recipe import CenterCrop


@dataclass(frozen=True)
class Windows:
    """The windows of a batch's crops along one axis: arrays (B, V).

    The centre of output pixel i lies at ``first + origin + (i + 0.5) * scale`` in the image; the filter may read
    the pixels from ``first + low`` up to, not including, ``first + high``. All but ``first`` is told relative to
    it, so that float32 suffices.

    Attributes:
        first: int64, a whole position in the image.
        origin: float64 in [0, 1).
        scale: float64, pixels of the image per pixel of the crop.
        low, high: int64.
    """

    first: np.ndarray
    origin: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray


def box_windows(draws: np.ndarray, sizes: list[int]) -> tuple[Windows, Windows]:
    """Windows along y and x of drawn boxes, (B, V, COLUMNS): the box alone is read, as if it were cut out first."""
    boxes = draws[:, :, TOP : WIDTH + 1].astype(np.int64)
    none = np.zeros(boxes.shape[:2], dtype=np.int64)
    y, x = (
        Windows(boxes[:, :, first], none.astype(np.float64), boxes[:, :, length] / sizes, none, boxes[:, :, length])
        for first, length in ((TOP, HEIGHT), (LEFT, WIDTH))
    )
    return y, x


def centre_windows(recipe: CenterCrop, heights: np.ndarray, widths: np.ndarray) -> tuple[Windows, Windows]:
    """Windows along y and x, (B, 1), of the central square of the resized whole images, rounded as by torchvision."""
    short = np.minimum(heights, widths)

    def along(length: np.ndarray) -> Windows:
        resized = np.where(length == short, recipe.resize, (recipe.resize * length / short).astype(np.int64))
        scale = length / resized
        start = np.rint((resized - recipe.size) / 2) * scale
        first = np.floor(start).astype(np.int64)
        return Windows(*(a[:, None] for a in (first, start - first, scale, -first, length - first)))

    return along(heights), along(widths)
