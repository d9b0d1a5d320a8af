"""One encoded image to RGB pixels, without FFCV: libjpeg-turbo for JPEG, Pillow for everything else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from simplejpeg import decode_jpeg, decode_jpeg_header

from loaders.image_reading import check_size, decoding, open_image, to_rgb

_STRIP = 1 << 20  # pixels that Pillow turns into RGB at a time

Allocate = Callable[[int], np.ndarray]
"""Gives room for so many bytes: (n,) uint8."""


def fresh(size: int) -> np.ndarray:
    """Memory of its own; the ``Allocate`` that a decoder uses by default."""
    return np.empty(size, dtype=np.uint8)


def copied(pixels: np.ndarray, allocate: Allocate) -> np.ndarray:
    """A copy of (n,) uint8 in room that ``allocate`` gives."""
    room = allocate(pixels.size)
    room[:] = pixels
    return room


def decode_image(data: bytes | np.ndarray, allocate: Allocate = fresh) -> torch.Tensor:
    """Decodes an image file's bytes as torchvision's ImageFolder does.

    Args:
        data: the bytes.
        allocate: gives the room for the pixels.

    Returns:
        Contiguous uint8 tensor (H, W, 3).

    Raises:
        BadImage: damaged, truncated or not an image.
    """
    try:
        height, width, _, _ = decode_jpeg_header(data)
    except Exception:  # another format, or a JPEG that simplejpeg does not know (a KeyError where chroma is 4:4:1)
        return _decode_with_pillow(bytes(data), allocate)
    check_size(height, width, len(data), "JPEG")
    try:
        pixels = allocate(height * width * 3)
        # Strict: libjpeg would fill what a truncated file lacks with grey and only warn.
        decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=pixels, strict=True)
        return torch.from_numpy(pixels).view(height, width, 3)
    except Exception:  # CMYK, or damage; Pillow forgives what does not cost pixels, and says what is wrong
        return _decode_with_pillow(bytes(data), allocate)


def _decode_with_pillow(data: bytes, allocate: Allocate) -> torch.Tensor:
    with decoding(), open_image(data) as image:
        image.load()
        width, height = image.size
        pixels = allocate(height * width * 3).reshape(height, width, 3)
        rows = max(1, _STRIP // width)
        for top in range(0, height, rows):  # whole copies of a large image would add up
            strip = image.crop((0, top, width, min(top + rows, height)))
            pixels[top : top + rows] = np.asarray(to_rgb(strip))
        return torch.from_numpy(pixels)
