"""Everything random about a batch's crops, as one small table drawn from a counter.

A draw depends on (seed, epoch, sample, view) alone, so no backend, thread, rank or restart changes a crop.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from loaders.philox import philox, uniform
from loaders.recipe import CropSpec, MultiCrop

# Columns of the table.
TOP, LEFT, HEIGHT, WIDTH = 0, 1, 2, 3  # the crop's box in pixels of the decoded picture
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
_BLOCKS = 9  # of four random numbers each: 20 for the attempts, 12 for the rest, 4 spare


def draw(
    recipe: MultiCrop, seed: int, epoch: int, ids: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """Draws the crops of a batch.

    Args:
        recipe: the V views' numbers.
        ids: (B,) sample ids.
        heights, widths: (B,) sizes of the decoded pictures in pixels.

    Returns:
        float32 table of shape (B, V, COLUMNS). Boxes are whole numbers.
    """
    table = np.empty((len(ids), len(recipe.views), COLUMNS), dtype=np.float32)
    for view, spec in enumerate(recipe.views):
        words = philox(seed, np.asarray(ids)[:, None], epoch, view, np.arange(_BLOCKS))
        numbers = uniform(words).reshape(len(ids), -1)
        table[:, view, TOP : WIDTH + 1] = _boxes(spec, numbers[:, :22], np.asarray(heights), np.asarray(widths))
        _draw_colour(spec, numbers[:, 22:34], table[:, view])
    return table


def _boxes(spec: CropSpec, numbers: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """RandomResizedCrop as torchvision defines it: ten attempts, the first that fits, else the central box."""
    picture_h, picture_w = heights[:, None].astype(np.float64), widths[:, None].astype(np.float64)
    area = picture_h * picture_w * _between(spec.scale, numbers[:, :_ATTEMPTS])
    aspect = np.exp(_between(np.log(spec.ratio), numbers[:, _ATTEMPTS : 2 * _ATTEMPTS]))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= picture_w) & (h > 0) & (h <= picture_h)
    rows, first = np.arange(len(heights)), np.argmax(fits, axis=1)
    h, w = h[rows, first], w[rows, first]

    fallback = ~fits.any(axis=1)
    fallback_h, fallback_w = _central_box(spec.ratio, heights, widths)
    h, w = np.where(fallback, fallback_h, h), np.where(fallback, fallback_w, w)
    top = np.where(fallback, (heights - h) // 2, np.floor(numbers[:, 20] * (heights - h + 1)))
    left = np.where(fallback, (widths - w) // 2, np.floor(numbers[:, 21] * (widths - w + 1)))
    return np.stack([top, left, h, w], axis=1)


def _central_box(ratio: tuple[float, float], heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest box of an allowed aspect ratio: the fallback of RandomResizedCrop."""
    aspect = widths / heights
    too_tall, too_wide = aspect < min(ratio), aspect > max(ratio)
    # A picture one pixel across can round to an empty box; torchvision would fail on it, we keep one pixel.
    h = np.where(too_tall, np.maximum(np.rint(widths / min(ratio)), 1), heights)
    w = np.where(too_wide, np.maximum(np.rint(heights * max(ratio)), 1), widths)
    return h, w


def _draw_colour(spec: CropSpec, numbers: np.ndarray, rows: np.ndarray) -> None:
    """Fills the columns of ``rows`` (B, COLUMNS) that follow the box, from 12 uniform numbers a row."""
    rows[:, FLIP] = numbers[:, 0] < spec.flip
    order = np.floor(numbers[:, 2] * len(JITTER_ORDERS))
    rows[:, JITTER_ORDER] = np.where(numbers[:, 1] < spec.jitter, order, -1)
    strengths = {BRIGHTNESS: spec.brightness, CONTRAST: spec.contrast, SATURATION: spec.saturation}
    for column, strength in strengths.items():
        rows[:, column] = _between((max(0.0, 1 - strength), 1 + strength), numbers[:, column - 3])
    rows[:, HUE] = _between((-spec.hue, spec.hue), numbers[:, 6])
    rows[:, GRAYSCALE] = numbers[:, 7] < spec.grayscale
    rows[:, BLUR_SIGMA] = np.where(numbers[:, 8] < spec.blur, _between(spec.blur_sigma, numbers[:, 9]), 0)
    rows[:, SOLARIZE] = numbers[:, 10] < spec.solarize


def _between(limits: tuple[float, float] | np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Stretches numbers in [0, 1) to ``limits``."""
    return limits[0] + (limits[1] - limits[0]) * numbers
