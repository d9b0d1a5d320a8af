"""The colour operations of the Triton kernels, on tiles of three channels in [0, 1]: formulas of ``reference.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from loaders.multicrop import crop_table as table
from loaders.multicrop.reference import GREY_WEIGHTS

_RED, _GREEN, _BLUE = map(tl.constexpr, GREY_WEIGHTS)
# fmt: off
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = map(tl.constexpr, (
    table.BRIGHTNESS, table.CONTRAST, table.SATURATION, table.HUE))
# fmt: on


@triton.jit
def luma(red, green, blue):
    return red * _RED + green * _GREEN + blue * _BLUE


@triton.jit
def _blend(values, factor, other):
    return tl.minimum(tl.maximum(values * factor + other, 0.0), 1.0)


@triton.jit
def jitter(red, green, blue, operations, row, mean):
    """The operations (see ``crop_table``) in their order; ``mean`` is the luma that contrast blends with."""
    left = operations.to(tl.int32)
    while left > 0:
        operation = left & 7
        if operation == 1:
            factor, other = tl.load(row + _BRIGHTNESS), 0.0
            red, green, blue = _blend(red, factor, other), _blend(green, factor, other), _blend(blue, factor, other)
        elif operation == 2:
            factor = tl.load(row + _CONTRAST)
            other = (1 - factor) * mean
            red, green, blue = _blend(red, factor, other), _blend(green, factor, other), _blend(blue, factor, other)
        elif operation == 3:
            factor = tl.load(row + _SATURATION)
            other = (1 - factor) * luma(red, green, blue)
            red, green, blue = _blend(red, factor, other), _blend(green, factor, other), _blend(blue, factor, other)
        elif operation == 4:
            red, green, blue = _turn_hue(red, green, blue, tl.load(row + _HUE))
        left = left >> 3
    return red, green, blue


@triton.jit
def _turn_hue(red, green, blue, shift):
    value = tl.maximum(red, tl.maximum(green, blue))
    chroma = value - tl.minimum(red, tl.minimum(green, blue))
    inverse = 1 / tl.where(chroma > 0, chroma, 1.0)
    not_red = tl.where(value == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse)
    # In sextants of the circle; the added turn keeps it positive.
    hue = tl.where(value == red, (green - blue) * inverse, not_red) + (6 * shift + 6)
    return value - chroma * _fall(hue + 5), value - chroma * _fall(hue + 3), value - chroma * _fall(hue + 1)


@triton.jit
def _fall(hue):
    """How far a channel falls from the value, as a share of the chroma, at this angle from where it is largest."""
    hue -= 6 * tl.floor(hue * (1 / 6))
    return tl.minimum(tl.maximum(tl.minimum(hue, 4 - hue), 0.0), 1.0)
