"""The definition of a crop, in plain NumPy: slow and obviously right. The fast engines are tested against it.

Geometry is Pillow's antialiased bicubic (Keys' kernel, a = -0.5) or bilinear, rounded to whole grey levels as Pillow
and torchvision round it; colour is torchvision's, on values in [0, 1], clipped after every operation.
"""

from __future__ import annotations

import math

import numpy as np

from loaders.multicrop.draws import (
    BLUR_SIGMA,
    BRIGHTNESS,
    CONTRAST,
    FLIP,
    GRAYSCALE,
    HEIGHT,
    HUE,
    JITTER_ORDER,
    JITTER_ORDERS,
    LEFT,
    SATURATION,
    SOLARIZE,
    TOP,
    WIDTH,
)
from loaders.recipe import Interpolation

GREY_WEIGHTS = (0.2989, 0.587, 0.114)


def crop(
    image: np.ndarray,
    draw: np.ndarray,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    interpolation: Interpolation = "bicubic",
) -> np.ndarray:
    """Cuts one crop.

    Args:
        image: (H, W, 3) uint8 RGB.
        draw: one row of ``loaders.multicrop.draws.draw``.
        size: side of the crop.

    Returns:
        (size, size, 3) float64, normalised.
    """
    top, left, height, width = draw[[TOP, LEFT, HEIGHT, WIDTH]].astype(int)
    image = resize(image[top : top + height, left : left + width], size, interpolation) / 255
    if draw[JITTER_ORDER] >= 0:
        operations = (
            (brightness, draw[BRIGHTNESS]),
            (contrast, draw[CONTRAST]),
            (saturation, draw[SATURATION]),
            (hue, draw[HUE]),
        )
        for which in JITTER_ORDERS[int(draw[JITTER_ORDER])]:
            operation, factor = operations[which]
            image = operation(image, float(factor))
    if draw[GRAYSCALE]:
        image = np.repeat(grey(image), 3, axis=2)
    if draw[BLUR_SIGMA] > 0:
        image = blur(image, float(draw[BLUR_SIGMA]))
    if draw[SOLARIZE]:
        image = solarize(image)
    if draw[FLIP]:
        image = image[:, ::-1]
    return (image - mean) / std


def resize(image: np.ndarray, size: int, interpolation: Interpolation = "bicubic") -> np.ndarray:
    """Antialiased to ``size`` x ``size``, rounded and clipped to 0..255; float64."""
    rows, columns = (resize_weights(length, size, interpolation) for length in image.shape[:2])
    # Pillow rounds after each of its two passes, columns first.
    narrow = _to_levels(np.einsum("ow,hwc->hoc", columns, image.astype(np.float64)))
    return _to_levels(np.einsum("oh,hwc->owc", rows, narrow))


def resize_weights(source: int, target: int, interpolation: Interpolation) -> np.ndarray:
    """Weights (target, source) of Keys' cubic kernel or of a triangle.

    The kernel is widened when the image shrinks, so that no pixel is skipped.
    """
    scale = source / target
    width = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source)[None] + 0.5 - centres[:, None]) / width
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    cubic = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    weights = cubic if interpolation == "bicubic" else np.maximum(1 - distance, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _to_levels(image: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(image + 0.5), 0, 255)


def grey(image: np.ndarray) -> np.ndarray:
    """Luma of an RGB image in [0, 1]: (H, W, 1)."""
    return (image * GREY_WEIGHTS).sum(axis=2, keepdims=True)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * image, 0, 1)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the mean luma of the whole crop."""
    return np.clip(factor * image + (1 - factor) * grey(image).mean(), 0, 1)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the pixel's luma."""
    return np.clip(factor * image + (1 - factor) * grey(image), 0, 1)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turns the colour circle of HSV by ``shift`` turns."""
    value, chroma = image.max(axis=2), np.ptp(image, axis=2)
    red, green, blue = np.moveaxis(image, 2, 0)
    safe = np.where(chroma > 0, chroma, 1)
    sextant = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sextant = (sextant + 6 * shift) % 6
    # The closed form of HSV to RGB: each channel falls from value to value - chroma as the hue turns away from it.
    channels = []
    for offset in (5, 3, 1):
        k = (offset + sextant) % 6
        channels.append(value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, axis=2)


def blur_kernel(sigma: float) -> np.ndarray:
    """Gaussian weights out to three standard deviations, which sum to 1."""
    radius = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; beyond the border the image is mirrored about its outermost pixels, as torchvision does."""
    kernel = blur_kernel(sigma)
    radius = len(kernel) // 2
    for axis in (0, 1):
        padding = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, padding, mode="reflect")
        size = image.shape[axis]
        image = sum(w * padded.take(range(i, i + size), axis=axis) for i, w in enumerate(kernel))
    return image


def solarize(image: np.ndarray) -> np.ndarray:
    """Inverts every value of 128 levels or more."""
    return np.where(image >= 128 / 255, 1 - image, image)
