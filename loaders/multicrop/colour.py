"""The colour operations of one crop on the CPU, compiled: uint8 pixels in, normalised float32 out.

Each operation is one loop over three planes of float32, so that the compiler can vectorise it. The crop passes through
all of them in bands of some rows that the first-level cache holds: a band is (3, its pixels), and the bands lie one
behind the other. The formulas are those of ``reference.py``.
"""

from __future__ import annotations

import numpy as np

from loaders.multicrop.blur import blur
from loaders.multicrop.draws import (
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
from loaders.numba_options import compiled

_RED, _GREEN, _BLUE = (np.float32(weight) for weight in GREY_WEIGHTS)
_ORDERS = JITTER_ORDERS.astype(np.int32)
_BRIGHTNESS, _CONTRAST, _SATURATION = 0, 1, 2  # and 3, hue, in JITTER_ORDERS
_BAND_PIXELS = 2048  # 24 KB
_ZERO, _ONE, _TWO, _THREE, _FOUR, _SIX = (np.float32(number) for number in (0, 1, 2, 3, 4, 6))


@compiled
def colour_crop(pixels, size, draw, mean, std, planes, padded, out):
    """Applies a draw's colour operations, flips and normalises.

    Args:
        pixels: (3, size * size) uint8, the resized crop.
        draw: one row of the draws table.
        mean, std: (3,) float32.
        planes: (n,) float32 work space, ``n >= 3 * size * size``.
        padded: work space of ``blur``.
        out: (size * size * 3,) float32, written.
    """
    band_rows = max(1, _BAND_PIXELS // size)
    jittered, blurred = draw[JITTER_ORDER] >= 0, draw[BLUR_SIGMA] > 0
    order = _ORDERS[max(0, int(draw[JITTER_ORDER]))]
    contrast = 0
    while order[contrast] != _CONTRAST:
        contrast += 1
    level = _ZERO
    if jittered:  # contrast needs the mean of what the operations before it make of the whole crop
        total = 0.0
        for top in range(0, size, band_rows):
            band = _band(planes, top, band_rows, size)
            _load(pixels, top * size, band)
            _jitter(band, order[:contrast], draw)
            total += _sum_of_grey(band)
        level = np.float32(total / (size * size))
    for top in range(0, size, band_rows):
        band = _band(planes, top, band_rows, size)
        if jittered:
            _blend(band, draw[CONTRAST], level)
            _jitter(band, order[contrast + 1 :], draw)
        else:
            _load(pixels, top * size, band)
        if draw[GRAYSCALE] > 0:
            _grey(band)
        if not blurred:
            _finish(band, top, size, draw, mean, std, out)
    if blurred:
        blur(planes, size, band_rows, draw[BLUR_SIGMA], padded)
        for top in range(0, size, band_rows):
            _finish(_band(planes, top, band_rows, size), top, size, draw, mean, std, out)


@compiled
def _band(planes, top, band_rows, size):
    """(3, pixels) of the rows from ``top`` on: contiguous, for loops over strided arrays are not vectorised."""
    pixels = min(band_rows, size - top) * size
    return planes[3 * top * size : 3 * (top * size + pixels)].reshape((3, pixels))


@compiled
def _jitter(planes, steps, draw):
    for step in steps:
        if step == _BRIGHTNESS:
            _blend(planes, draw[BRIGHTNESS], _ZERO)
        elif step == _SATURATION:
            _saturation(planes, draw[SATURATION])
        elif draw[HUE] != 0:
            _hue(planes, draw[HUE])


@compiled
def _load(pixels, start, planes):
    scale = np.float32(1 / 255)
    for c in range(3):
        plane, source = planes[c], pixels[c][start : start + planes.shape[1]]
        for i in range(plane.size):
            plane[i] = np.float32(source[i]) * scale


@compiled
def _clip(value):
    return min(max(value, _ZERO), _ONE)


@compiled
def _blend(planes, factor, level):
    """Brightness with black, contrast with the mean grey."""
    offset = (_ONE - factor) * level
    for c in range(3):
        plane = planes[c]
        for i in range(plane.size):
            plane[i] = _clip(plane[i] * factor + offset)


@compiled
def _sum_of_grey(planes):
    red, green, blue = planes[0], planes[1], planes[2]
    total = _ZERO  # a band's in float32, the crop's in float64
    for i in range(red.size):
        total += red[i] * _RED + green[i] * _GREEN + blue[i] * _BLUE
    return total


@compiled
def _saturation(planes, factor):
    red, green, blue = planes[0], planes[1], planes[2]
    rest = _ONE - factor
    for i in range(red.size):
        luma = rest * (red[i] * _RED + green[i] * _GREEN + blue[i] * _BLUE)
        red[i] = _clip(red[i] * factor + luma)
        green[i] = _clip(green[i] * factor + luma)
        blue[i] = _clip(blue[i] * factor + luma)


@compiled
def _grey(planes):
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(red.size):
        luma = red[i] * _RED + green[i] * _GREEN + blue[i] * _BLUE
        red[i] = luma
        green[i] = luma
        blue[i] = luma


@compiled
def _hue(planes, shift):
    """Turns the hue, told in sixths of a circle times chroma: so there is no division, and grey needs no care."""
    red, green, blue = planes[0], planes[1], planes[2]
    turn = _SIX * shift
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = max(r, max(g, b))
        chroma = value - min(r, min(g, b))
        hue = g - b
        if value != r:
            hue = _TWO * chroma + (b - r) if value == g else _FOUR * chroma + (r - g)
        hue += turn * chroma
        circle = _SIX * chroma
        if hue < _ZERO:
            hue += circle
        elif hue >= circle:
            hue -= circle
        red[i] = value - _between(_TWO * chroma - abs(hue - _THREE * chroma), chroma)
        green[i] = value - _between(abs(hue - _TWO * chroma) - chroma, chroma)
        blue[i] = value - _between(abs(hue - _FOUR * chroma) - chroma, chroma)


@compiled
def _between(value, most):
    return min(max(value, _ZERO), most)


@compiled
def _finish(planes, top, size, draw, mean, std, out):
    if draw[SOLARIZE] > 0:
        _solarize(planes)
    start = 3 * top * size
    _store(planes, size, draw[FLIP] > 0, mean, std, out[start : start + planes.size])


@compiled
def _solarize(planes):
    threshold = np.float32(128 / 255)
    for c in range(3):
        plane = planes[c]
        for i in range(plane.size):
            plane[i] = _ONE - plane[i] if plane[i] >= threshold else plane[i]


@compiled
def _store(planes, size, flip, mean, std, out):
    length = size if flip else planes.shape[1]
    for start in range(0, planes.shape[1], length):
        end = start + length
        red, green, blue = planes[0][start:end], planes[1][start:end], planes[2][start:end]
        _normalise(red, green, blue, flip, mean, std, out[3 * start : 3 * end])


@compiled
def _normalise(red, green, blue, flip, mean, std, out):
    red_scale, green_scale, blue_scale = _ONE / std[0], _ONE / std[1], _ONE / std[2]
    red_offset, green_offset, blue_offset = -mean[0] * red_scale, -mean[1] * green_scale, -mean[2] * blue_scale
    # Unsigned: an index that might be negative counts from the end, and such a loop is not vectorised.
    n = np.uint64(red.size)
    for x in range(n):
        source = n - np.uint64(1) - x if flip else x
        first = np.uint64(3) * x
        out[first] = red[source] * red_scale + red_offset
        out[first + np.uint64(1)] = green[source] * green_scale + green_offset
        out[first + np.uint64(2)] = blue[source] * blue_scale + blue_offset
