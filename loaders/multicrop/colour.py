"""The colour operations of one crop on the CPU, compiled: uint8 pixels in, normalised float32 out.

Each operation is one pass over the crop, kept in cache as three planes of float32, so that the compiler can vectorise
it. The formulas are those of ``reference.py``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from loaders.draws import (
    BLUR_SIGMA,
    BRIGHTNESS,
    CONTRAST,
    FLIP,
    GRAYSCALE,
    HUE,
    JITTER_ORDER,
    JITTER_ORDERS,
    SATURATION,
    SOLARIZE,
)
from loaders.multicrop.reference import GREY_WEIGHTS

_RED, _GREEN, _BLUE = (np.float32(weight) for weight in GREY_WEIGHTS)
_ORDERS = JITTER_ORDERS.astype(np.int32)
_ZERO, _ONE, _SIX = np.float32(0), np.float32(1), np.float32(6)
_compiled = njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


@_compiled
def colour_crop(pixels, size, draw, mean, std, work_space, out):
    """Applies a draw's colour operations, flips and normalises.

    Args:
        pixels: (3, size * size) uint8, the resized crop.
        draw: one row of the draws table.
        mean, std: (3,) float32.
        work_space: (2, 3 * s * s) float32 with ``s >= size``.
        out: (size * size * 3,) float32, written.
    """
    # Views of contiguous memory, and known as such to the compiler: loops over strided arrays are not vectorised.
    planes = work_space[0][: 3 * size * size].reshape((3, size * size))
    spare = work_space[1][: 3 * size * size].reshape((3, size * size))
    _load(pixels, planes)
    order = int(draw[JITTER_ORDER])
    if order >= 0:
        for step in range(4):
            which = _ORDERS[order, step]
            if which == 0:
                _brightness(planes, draw[BRIGHTNESS])
            elif which == 1:
                _blend(planes, draw[CONTRAST], _mean_grey(planes))
            elif which == 2:
                _saturation(planes, draw[SATURATION])
            elif draw[HUE] != 0:
                _hue(planes, draw[HUE])
    if draw[GRAYSCALE] > 0:
        _grey(planes)
    if draw[BLUR_SIGMA] > 0:
        _blur(planes, spare, size, draw[BLUR_SIGMA])
    if draw[SOLARIZE] > 0:
        _solarize(planes)
    _store(planes, size, draw[FLIP] > 0, mean, std, out)


@_compiled
def _load(pixels, planes):
    scale = np.float32(1 / 255)
    for c in range(3):
        plane, source = planes[c], pixels[c]
        for i in range(plane.size):
            plane[i] = np.float32(source[i]) * scale


@_compiled
def _clip(value):
    return min(max(value, _ZERO), _ONE)


@_compiled
def _brightness(planes, factor):
    for c in range(3):
        plane = planes[c]
        for i in range(plane.size):
            plane[i] = _clip(plane[i] * factor)


@_compiled
def _blend(planes, factor, level):
    offset = (_ONE - factor) * level
    for c in range(3):
        plane = planes[c]
        for i in range(plane.size):
            plane[i] = _clip(plane[i] * factor + offset)


@_compiled
def _mean_grey(planes):
    red, green, blue = planes[0], planes[1], planes[2]
    total = 0.0
    for start in range(0, red.size, 256):  # float32 within a block, float64 across
        part = _ZERO
        for i in range(start, min(start + 256, red.size)):
            part += red[i] * _RED + green[i] * _GREEN + blue[i] * _BLUE
        total += part
    return np.float32(total / red.size)


@_compiled
def _saturation(planes, factor):
    red, green, blue = planes[0], planes[1], planes[2]
    rest = _ONE - factor
    for i in range(red.size):
        luma = rest * (red[i] * _RED + green[i] * _GREEN + blue[i] * _BLUE)
        red[i] = _clip(red[i] * factor + luma)
        green[i] = _clip(green[i] * factor + luma)
        blue[i] = _clip(blue[i] * factor + luma)


@_compiled
def _grey(planes):
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(red.size):
        luma = red[i] * _RED + green[i] * _GREEN + blue[i] * _BLUE
        red[i] = luma
        green[i] = luma
        blue[i] = luma


@_compiled
def _hue(planes, shift):
    red, green, blue = planes[0], planes[1], planes[2]
    turn = _SIX * shift + _SIX  # the added turn keeps what follows positive
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = max(r, max(g, b))
        chroma = value - min(r, min(g, b))
        inverse = _ONE / chroma if chroma > _ZERO else _ZERO
        sextant = (g - b) * inverse
        if value != r:
            sextant = np.float32(2) + (b - r) * inverse if value == g else np.float32(4) + (r - g) * inverse
        sextant += turn
        red[i] = value - chroma * _falloff(sextant + np.float32(5))
        green[i] = value - chroma * _falloff(sextant + np.float32(3))
        blue[i] = value - chroma * _falloff(sextant + _ONE)


@_compiled
def _falloff(k):
    k -= _SIX * np.floor(k * np.float32(1 / 6))
    return _clip(min(k, np.float32(4) - k))


@_compiled
def _blur(planes, spare, size, sigma):
    radius = int(math.ceil(3 * sigma))
    kernel = np.empty(radius + 1, dtype=np.float32)  # one half: it is symmetric
    for i in range(radius + 1):
        kernel[i] = math.exp(-0.5 * (i / sigma) ** 2)
    kernel /= 2 * kernel.sum() - kernel[0]
    padded = np.empty(size + 2 * radius, dtype=np.float32)
    for c in range(3):
        plane, passed = planes[c], spare[c]
        for y in range(size):  # down the columns: whole rows are added, weighted
            row = passed[y * size : (y + 1) * size]
            _scale_row(row, plane[y * size : (y + 1) * size], kernel[0])
            for k in range(1, radius + 1):
                above, below = _mirror(y - k, size) * size, _mirror(y + k, size) * size
                _add_rows(row, plane[above : above + size], plane[below : below + size], kernel[k])
        for y in range(size):  # along the rows: the row is added to itself, shifted
            start = y * size
            for x in range(radius):
                padded[x] = passed[start + _mirror(x - radius, size)]
                padded[radius + size + x] = passed[start + _mirror(size + x, size)]
            padded[radius : radius + size] = passed[start : start + size]
            row = plane[start : start + size]
            _scale_row(row, padded[radius : radius + size], kernel[0])
            for k in range(1, radius + 1):
                left, right = padded[radius - k : radius - k + size], padded[radius + k : radius + k + size]
                _add_rows(row, left, right, kernel[k])


@_compiled
def _scale_row(row, source, weight):
    for x in range(row.size):
        row[x] = weight * source[x]


@_compiled
def _add_rows(row, first, second, weight):
    for x in range(row.size):
        row[x] += weight * (first[x] + second[x])


@_compiled
def _mirror(i, size):
    """Position ``i`` folded back into the image, about the outermost pixels."""
    if size == 1:
        return 0
    period = 2 * (size - 1)
    i = abs(i) % period
    return period - i if i >= size else i


@_compiled
def _solarize(planes):
    threshold = np.float32(128 / 255)
    for c in range(3):
        plane = planes[c]
        for i in range(plane.size):
            plane[i] = _ONE - plane[i] if plane[i] >= threshold else plane[i]


@_compiled
def _store(planes, size, flip, mean, std, out):
    red_scale, green_scale, blue_scale = _ONE / std[0], _ONE / std[1], _ONE / std[2]
    red_offset, green_offset, blue_offset = -mean[0] * red_scale, -mean[1] * green_scale, -mean[2] * blue_scale
    for y in range(size):
        start, end = y * size, (y + 1) * size
        red, green, blue = planes[0][start:end], planes[1][start:end], planes[2][start:end]
        row = out[3 * start : 3 * end]
        for x in range(size):
            source = size - 1 - x if flip else x
            row[3 * x] = red[source] * red_scale + red_offset
            row[3 * x + 1] = green[source] * green_scale + green_offset
            row[3 * x + 2] = blue[source] * blue_scale + blue_offset
