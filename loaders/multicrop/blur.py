"""Separable Gaussian blur of one crop on the CPU, compiled.

A pass over one row is too short: what a loop costs before it starts would be half of it. So the plane is padded once,
and both passes run over bands of some rows as over one long row; what comes out in the padding is not used.
"""

from __future__ import annotations

import math

import numpy as np

from loaders.numba_options import compiled


@compiled
def blur(planes, size, band_rows, sigma, padded):
    """Blurs the three planes of a crop in place, mirrored about its outermost pixels.

    Args:
        planes: (3 * size * size,) float32 in bands, see ``colour.py``.
        size: side of the crop.
        band_rows: rows of a band.
        sigma: standard deviation in pixels; the kernel ends at ``ceil(3 sigma)``.
        padded: (n,) float32 work space, ``n >= (size + 2 r) * row_stride(size, r)`` with ``r = ceil(3 sigma)``.
    """
    kernel = _half_kernel(sigma)
    radius = kernel.size - 1
    stride = row_stride(size, radius)
    length = band_rows * stride
    down, across = np.empty(length, dtype=np.float32), np.empty(length, dtype=np.float32)
    for c in range(3):
        _pad(planes, c, size, band_rows, radius, padded)
        for top in range(0, size, band_rows):
            rows = min(band_rows, size - top)
            _weigh(padded, (top + radius) * stride, stride, kernel, down[: rows * stride])
            # int64: of a literal 1 numba would compile a loop of its own.
            _weigh(down, radius, np.int64(1), kernel, across[: rows * stride - 2 * radius])
            start = 3 * top * size + c * rows * size
            for y in range(rows):
                _copy(across[y * stride : y * stride + size], planes[start + y * size : start + (y + 1) * size])


@compiled
def row_stride(size, radius):
    """Floats from a padded row to the next: whole cache lines, so that the rows of a sum lie alike in them."""
    return (size + 2 * radius + 15) // 16 * 16


@compiled
def _half_kernel(sigma):
    """The centre and one half of the kernel: it is symmetric."""
    radius = int(math.ceil(3 * sigma))
    kernel = np.empty(radius + 1, dtype=np.float32)
    for i in range(radius + 1):
        kernel[i] = math.exp(-0.5 * (i / sigma) ** 2)
    half = np.float32(0)
    for weight in kernel:  # loops: NumPy's sum and division take numba a second to compile
        half += weight
    whole = 2 * half - kernel[0]
    for i in range(radius + 1):
        kernel[i] /= whole
    return kernel


@compiled
def _pad(planes, c, size, band_rows, radius, padded):
    """Copies plane ``c`` into the middle of ``padded`` and mirrors it into the margin."""
    stride = row_stride(size, radius)
    for y in range(size):
        top = y // band_rows * band_rows
        rows = min(band_rows, size - top)
        start = 3 * top * size + (c * rows + y - top) * size
        row = padded[(y + radius) * stride : (y + radius + 1) * stride]
        _copy(planes[start : start + size], row[radius : radius + size])
        for x in range(radius):
            row[x] = row[radius + _mirror(x - radius, size)]
            row[radius + size + x] = row[radius + _mirror(size + x, size)]
    for y in range(2 * radius):
        to = y if y < radius else size + y
        source = (radius + _mirror(to - radius, size)) * stride
        _copy(padded[source : source + stride], padded[to * stride : (to + 1) * stride])


@compiled
def _weigh(values, start, step, kernel, out):
    """``out[i] = sum_k kernel[|k|] values[start + i + k step]``: two taps on either side a pass."""
    n, radius = out.size, kernel.size - 1
    centre, weight = values[start : start + n], kernel[0]
    for i in range(n):
        out[i] = weight * centre[i]
    for k in range(1, radius, 2):
        a, b = values[start - k * step :][:n], values[start + k * step :][:n]
        c, d = values[start - (k + 1) * step :][:n], values[start + (k + 1) * step :][:n]
        first, second = kernel[k], kernel[k + 1]
        for i in range(n):
            out[i] += first * (a[i] + b[i]) + second * (c[i] + d[i])
    if radius % 2:
        a, b, weight = values[start - radius * step :][:n], values[start + radius * step :][:n], kernel[radius]
        for i in range(n):
            out[i] += weight * (a[i] + b[i])


@compiled
def _copy(source, to):
    for i in range(to.size):  # as a loop it is vectorised; an assignment to a slice is not
        to[i] = source[i]


@compiled
def _mirror(i, size):
    """Position ``i`` folded back into the image, about the outermost pixels."""
    if size == 1:
        return 0
    period = 2 * (size - 1)
    i = abs(i) % period
    return period - i if i >= size else i
