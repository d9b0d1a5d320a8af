"""Everything random about a batch's crops, as one small table drawn from a counter.

A draw depends on (seed, epoch, sample, view) alone, so no backend, thread, rank or restart changes a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from loaders.philox import Domain, philox, uniform
from loaders.recipe import CropSpec, MultiCrop

# Columns of the table.
TOP, LEFT, HEIGHT, WIDTH = 0, 1, 2, 3  # the crop's box in pixels of the decoded image
FLIP = 4  # 1: mirror
JITTER_ORDER = 5  # row of JITTER_ORDERS, -1: no jitter
BRIGHTNESS, CONTRAST, SATURATION, HUE = 6, 7, 8, 9  # factors; the hue's is a shift in turns
GRAYSCALE = 10  # 1: grey
BLUR_SIGMA = 11  # in pixels of the crop, 0: no blur
SOLARIZE = 12  # 1: solarise
COLUMNS = 13

# The 24 orders of the jitter's operations: 0 brightness, 1 contrast, 2 saturation, 3 hue.
JITTER_ORDERS = np.array(list(permutations(range(4))), dtype=np.int64)

_ATTEMPTS = 10  # of RandomResizedCrop, before it falls back to the centre
_BLOCKS = 9  # of four random numbers each: 20 for the attempts, 2 for the place, 11 for the rest, 3 spare


def draw(
    recipe: MultiCrop, seed: int, epoch: int, ids: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """Draws the crops of a batch.

    Args:
        recipe: the V views' numbers.
        ids: (B,) sample ids.
        heights, widths: (B,) sizes of the decoded images in pixels.

    Returns:
        float32 table of shape (B, V, COLUMNS). Boxes are whole numbers.
    """
    views, ids = recipe.views, np.asarray(ids)
    blocks = Domain.CROPS + np.arange(_BLOCKS)
    words = philox(seed, ids[:, None, None], epoch, np.arange(len(views))[:, None], blocks)
    numbers = uniform(words).reshape(len(ids), len(views), -1)
    table = np.empty((len(ids), len(views), COLUMNS), dtype=np.float32)
    sizes = np.asarray(heights)[:, None], np.asarray(widths)[:, None]
    table[..., TOP : WIDTH + 1] = _boxes(views, numbers[..., :22], *sizes)
    _draw_colour(views, numbers[..., 22:34], table)
    return table


def _boxes(views: Sequence[CropSpec], numbers: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """RandomResizedCrop as torchvision defines it: ten attempts, the first that fits, else the central box.

    Args:
        numbers: (B, V, 22) uniform.
        heights, widths: (B, 1).

    Returns:
        (B, V, 4): top, left, height and width.
    """
    image_h, image_w = heights[..., None].astype(np.float64), widths[..., None].astype(np.float64)
    scale, ratio = _column(views, "scale"), _column(views, "ratio")
    area = image_h * image_w * _between(scale[..., None], numbers[..., :_ATTEMPTS])
    aspect = np.exp(_between(np.log(ratio)[..., None], numbers[..., _ATTEMPTS : 2 * _ATTEMPTS]))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= image_w) & (h > 0) & (h <= image_h)
    first = np.argmax(fits, axis=-1)[..., None]
    h, w = (np.take_along_axis(sides, first, axis=-1)[..., 0] for sides in (h, w))

    fallback = ~fits.any(axis=-1)
    fallback_h, fallback_w = _central_box(ratio, heights, widths)
    h, w = np.where(fallback, fallback_h, h), np.where(fallback, fallback_w, w)
    top = np.where(fallback, (heights - h) // 2, np.floor(numbers[..., 20] * (heights - h + 1)))
    left = np.where(fallback, (widths - w) // 2, np.floor(numbers[..., 21] * (widths - w + 1)))
    return np.stack([top, left, h, w], axis=-1)


def _central_box(ratio: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest box of an allowed aspect ratio: the fallback of RandomResizedCrop.

    Args:
        ratio: (2, V), the least and the largest.
    """
    aspect, (least, largest) = widths / heights, ratio
    # An image one pixel across can round to an empty box; torchvision would fail on it, we keep one pixel.
    h = np.where(aspect < least, np.maximum(np.rint(widths / least), 1), heights)
    w = np.where(aspect > largest, np.maximum(np.rint(heights * largest), 1), widths)
    return h, w


def _draw_colour(views: Sequence[CropSpec], numbers: np.ndarray, table: np.ndarray) -> None:
    """Fills the columns of ``table`` (B, V, COLUMNS) that follow the box, from 12 uniform numbers a crop."""
    table[..., FLIP] = numbers[..., 0] < _column(views, "flip")
    order = np.floor(numbers[..., 2] * len(JITTER_ORDERS))
    table[..., JITTER_ORDER] = np.where(numbers[..., 1] < _column(views, "jitter"), order, -1)
    for column, name in {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation"}.items():
        strength = _column(views, name)
        table[..., column] = _between((np.maximum(0.0, 1 - strength), 1 + strength), numbers[..., column - 3])
    hue = _column(views, "hue")
    table[..., HUE] = _between((-hue, hue), numbers[..., 6])
    table[..., GRAYSCALE] = numbers[..., 7] < _column(views, "grayscale")
    sigma = _between(_column(views, "blur_sigma"), numbers[..., 9])
    table[..., BLUR_SIGMA] = np.where(numbers[..., 8] < _column(views, "blur"), sigma, 0)
    table[..., SOLARIZE] = numbers[..., 10] < _column(views, "solarize")


def _column(views: Sequence[CropSpec], name: str) -> np.ndarray:
    """One number of every view, (V,); of a range both ends, (2, V)."""
    return np.array([getattr(spec, name) for spec in views], dtype=np.float64).T


def _between(limits: tuple[np.ndarray, np.ndarray] | np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Stretches numbers in [0, 1) to ``limits``."""
    return limits[0] + (limits[1] - limits[0]) * numbers
