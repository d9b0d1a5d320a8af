"""A look at a JPEG's markers (ITU T.81, annex B): enough to tell whether any decoder will read it alike."""

from __future__ import annotations

import numpy as np

from loaders.beton.file import JPEG
from loaders.image_reading import BadImage, check_size
from loaders.sources import Images
from loaders.sources.images import BetonImages

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the other three are tables
_ADOBE = 0xEE  # names colour spaces beyond the usual one
_TAIL = 64  # bytes from the end in which the end marker must be: some files have padding after it


def plain_jpeg(images: Images, sample: int) -> tuple[np.ndarray, int, int] | None:
    """An image's bytes, height and width if it is a plain JPEG; None if not, or if it cannot be read."""
    try:
        data = images.encoded(sample)
    except BadImage:
        return None
    size = plain_jpeg_size(memoryview(data))
    if size is None or isinstance(images, BetonImages) and not _as_indexed(images, sample, size):
        return None
    return data, *size


def plain_jpeg_size(data: memoryview) -> tuple[int, int] | None:
    """Size of an ordinary JPEG: Huffman coded, 8 bits, grey or YCbCr, and not cut off at its end.

    Args:
        data: the file's bytes.

    Returns:
        (height, width) in pixels; None for everything else, readable or not.
    """
    if data[:2] != b"\xff\xd8" or b"\xff\xd9" not in bytes(data[-_TAIL:]):
        return None
    position = 2
    while position + 9 < len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _ADOBE:
            return None
        if marker in _FRAMES:
            bits, components = data[position + 4], data[position + 9]
            height, width = (int.from_bytes(data[position + i : position + i + 2], "big") for i in (5, 7))
            ordinary = marker in (_BASELINE, _EXTENDED, _PROGRESSIVE) and bits == 8 and components in (1, 3)
            return (height, width) if ordinary and _possible(height, width, len(data)) else None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _as_indexed(images: BetonImages, sample: int, size: tuple[int, int]) -> bool:
    return images.modes[sample] == JPEG and size == (images.heights[sample], images.widths[sample])


def _possible(height: int, width: int, size: int) -> bool:
    try:
        check_size(height, width, size, "JPEG")
    except BadImage:
        return False
    return True
