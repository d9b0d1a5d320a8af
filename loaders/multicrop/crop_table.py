"""What the Triton kernels are told: of the recipe once, tiles and strips; of a batch, a few numbers per crop and strip.

A tile is a rectangle of output pixels, the work of one program. A strip is a tile's extent along one axis; all tiles
between the same two lines of a crop share it, and with it the filter's weights.
"""

from __future__ import annotations

import numpy as np

from loaders.multicrop import draws as columns
from loaders.multicrop.windows import Windows
from loaders.sources.decoded import DecodedBatch

# Columns of the tiles: the view, the tile's corner in it, the view's side, pixels per image in the views before, the
# view's tiles (the first in this table, and how many), the tile's strips.
VIEW, TILE_Y, TILE_X, SIZE, START, FIRST_TILE, TILES, STRIP_Y, STRIP_X = range(9)
TILE_COLUMNS = 9

# Columns of the strips: the view, the axis (0 y, 1 x), where the strip begins and ends.
STRIP_VIEW, STRIP_AXIS, STRIP_BEGIN, STRIP_END = range(4)
STRIP_COLUMNS = 4

# Columns of a strip's taps in a batch: the first, the last that may be read, how many steps of ``STEP`` taps, and where
# in the buffer of weights they lie, in units of ``STEP``.
FIRST_TAP, LAST_TAP, STEPS, BAND = range(4)
TAP_COLUMNS = 4

# Columns of the places: where the window's first pixel lies in the batch's bytes, and the strides from there.
OFFSET, ROW_STRIDE, COLUMN_STRIDE, CHANNEL_STRIDE = range(4)
PLACE_COLUMNS = 4

# Columns of the numbers. A window takes two, origin and scale; BLUR_PEAK is the blur's weight of the pixel itself.
WINDOW_Y, WINDOW_X = 0, 2
FLIP, OPERATIONS, BEFORE_CONTRAST = 4, 5, 6
BRIGHTNESS, CONTRAST, SATURATION, HUE = 7, 8, 9, 10
GRAYSCALE, BLUR_SIGMA, BLUR_RADIUS, BLUR_PEAK, SOLARIZE = 11, 12, 13, 14, 15
NUMBER_COLUMNS = 16

TALL, WIDE = 16, 32  # of a tile
STEP = 16  # taps at once: the depth of a tensor core's product

_OCTAL = 8 ** np.arange(4)


def tile_table(sizes: list[int]) -> np.ndarray:
    """The tiles that cover every view: int32 (T, TILE_COLUMNS)."""
    rows: list[tuple[int, ...]] = []
    strip = 0
    for view, size in enumerate(sizes):
        tops, lefts = range(0, size, TALL), range(0, size, WIDE)
        start, first, tiles = sum(s * s for s in sizes[:view]), len(rows), len(tops) * len(lefts)
        for y, top in enumerate(tops):
            for x, left in enumerate(lefts, strip + len(tops)):
                rows.append((view, top, left, size, start, first, tiles, strip + y, x))
        strip += len(tops) + len(lefts)
    return np.array(rows, dtype=np.int32)


def strip_table(sizes: list[int]) -> np.ndarray:
    """The strips of every view, those along y first: int32 (S, STRIP_COLUMNS)."""
    rows = [
        (view, axis, begin, min(begin + side, size))
        for view, size in enumerate(sizes)
        for axis, side in enumerate((TALL, WIDE))
        for begin in range(0, size, side)
    ]
    return np.array(rows, dtype=np.int32)


def taps(strips: np.ndarray, y: Windows, x: Windows, reach: int) -> tuple[np.ndarray, int]:
    """The taps of every strip of a batch.

    Args:
        strips: see ``strip_table``.
        reach: pixels to either side that the filter reads when it enlarges.

    Returns:
        int32 (B, S, TAP_COLUMNS), and the weights that all of them take.
    """
    view, axis, begin, end = strips.T
    along = np.where(axis == 0, 0, len(y.first[0])) + view
    origin, scale, low, high = (
        np.concatenate([getattr(y, name), getattr(x, name)], axis=1)[:, along]
        for name in ("origin", "scale", "low", "high")
    )
    support = reach * np.maximum(scale, 1)
    table = np.empty((*origin.shape, TAP_COLUMNS), dtype=np.int32)
    first = np.maximum(np.floor(origin + (begin + 0.5) * scale - support + 0.5), low)
    last = np.minimum(np.ceil(origin + (end - 0.5) * scale + support - 0.5), high) - 1
    steps = (last - first).astype(np.int64) // STEP + 1
    units = steps * np.where(axis == 0, TALL, WIDE)
    ends = np.cumsum(units)
    table[:, :, FIRST_TAP], table[:, :, LAST_TAP], table[:, :, STEPS] = first, last, steps
    table[:, :, BAND] = (ends - units.reshape(-1)).reshape(units.shape)
    return table, int(ends[-1]) * STEP


def places(decoded: DecodedBatch, y: Windows, x: Windows) -> np.ndarray:
    """int64 (B, V, PLACE_COLUMNS)."""
    table = np.empty((*y.first.shape, PLACE_COLUMNS), dtype=np.int64)
    table[:, :, ROW_STRIDE:] = decoded.strides[:, None]
    row_stride, column_stride = decoded.strides[:, :1], decoded.strides[:, 1:2]
    table[:, :, OFFSET] = decoded.offsets[:, None] + y.first * row_stride + x.first * column_stride
    return table


def numbers(y: Windows, x: Windows, draws: np.ndarray) -> np.ndarray:
    """float32 (B, V, NUMBER_COLUMNS)."""
    table = np.empty((*draws.shape[:2], NUMBER_COLUMNS), dtype=np.float32)
    for window, column in ((y, WINDOW_Y), (x, WINDOW_X)):
        table[:, :, column], table[:, :, column + 1] = window.origin, window.scale
    table[:, :, OPERATIONS], table[:, :, BEFORE_CONTRAST] = _operations(draws)
    table[:, :, BRIGHTNESS : HUE + 1] = draws[:, :, columns.BRIGHTNESS : columns.HUE + 1]
    table[:, :, FLIP], table[:, :, GRAYSCALE] = draws[:, :, columns.FLIP], draws[:, :, columns.GRAYSCALE]
    table[:, :, BLUR_SIGMA] = draws[:, :, columns.BLUR_SIGMA]
    table[:, :, BLUR_RADIUS], table[:, :, BLUR_PEAK] = _blur(draws[:, :, columns.BLUR_SIGMA])
    table[:, :, SOLARIZE] = draws[:, :, columns.SOLARIZE]
    return table


def _blur(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radius and central weight of ``reference.blur_kernel`` for each sigma; 0 and 1 where sigma is 0."""
    sigma = sigma.astype(np.float64)
    radius = np.ceil(3 * sigma)
    distance = np.arange(1, radius.max() + 1)
    scaled = distance / np.where(sigma > 0, sigma, 1)[..., None]
    sides = np.where(distance <= radius[..., None], np.exp(-0.5 * scaled**2), 0).sum(axis=-1)
    return radius, 1 / (1 + 2 * sides)


def _operations(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The jitter's operations in drawn order, and those of them before the contrast, each as one number.

    Octal digits from the lowest: 1 brightness, 2 contrast, 3 saturation, 4 hue, 0 nothing.
    """
    order = draws[:, :, columns.JITTER_ORDER].astype(np.int64)
    digits = np.where(order[:, :, None] >= 0, columns.JITTER_ORDERS[order] + 1, 0)
    digits[(digits == 4) & (draws[:, :, columns.HUE, None] == 0)] = 0  # no turn
    before = np.cumsum(digits == 2, axis=-1) == 0
    return digits @ _OCTAL, (digits * before) @ _OCTAL
