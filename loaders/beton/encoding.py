"""Turns an image as it was found into the bytes that are stored in a ``.beton`` file."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from loaders.beton.file import JPEG, LARGEST_SIDE, RAW
from loaders.errors import UserError
from loaders.image_reading import BadImage, decoding, open_image, to_rgb


@dataclass(frozen=True)
class Storage:
    """How images are stored.

    Attributes:
        longest_side: images with a longer side, in pixels, are shrunk to it; 0 never shrinks.
        quality: JPEG quality (1 to 100) of images that are encoded anew.
        raw: store RGB pixels instead of JPEG.
    """

    longest_side: int = 500
    quality: int = 90
    raw: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.longest_side <= LARGEST_SIDE:
            raise UserError(f"--longest-side {self.longest_side} is not between 0 (never shrink) and {LARGEST_SIDE}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality} is not between 1 and 100")


@dataclass(frozen=True)
class StoredImage:
    """An image as it goes into the file; ``data`` is a JPEG stream or ``height * width * 3`` pixels."""

    data: bytes
    height: int
    width: int
    mode: int


def encode_image(data: bytes | np.ndarray, storage: Storage) -> StoredImage:
    """Turns an image file's bytes, or uint8 pixels ``(H, W, 3)``, into what is stored.

    An RGB or grayscale JPEG that is small enough keeps its bytes, once it has been seen to decode. Everything else
    becomes RGB by the rule of ``loaders.image_reading``.

    Raises:
        BadImage: it cannot be decoded, or is too large to store.
    """
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
        return _store(_shrink(image, _final_size(image, storage)), storage)
    with decoding(), open_image(data) as image:
        size = _final_size(image, storage)
        keep = size == image.size and not storage.raw and image.format == "JPEG" and image.mode in ("RGB", "L")
        if keep:
            # At an eighth of its size, where libjpeg can: every bit is decoded, which is what may fail, but few pixels
            # are made of them.
            image.draft(None, (1, 1))
            image.load()
            return StoredImage(data, size[1], size[0], JPEG)
        # libjpeg may decode at a half, quarter or eighth while that still is twice the final size; the box is the
        # part of the result that the whole image takes.
        draft = None if size == image.size else image.draft(None, (2 * size[0], 2 * size[1]))
        image.load()
        if draft is None:
            size = _final_size(image, storage)  # which loading may turn: a TIFF, by some versions of Pillow
        return _store(_shrink(to_rgb(image), size, draft and draft[1]), storage)


def _final_size(image: Image.Image, storage: Storage) -> tuple[int, int]:
    scale = storage.longest_side / max(image.size)
    if scale == 0 or scale >= 1:
        return image.size
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _shrink(image: Image.Image, size: tuple[int, int], box: tuple[float, ...] | None = None) -> Image.Image:
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, box)


def _store(image: Image.Image, storage: Storage) -> StoredImage:
    if max(image.size) > LARGEST_SIDE:
        raise BadImage(f"{image.width} x {image.height} pixels; a side can have at most {LARGEST_SIDE}")
    if storage.raw:
        return StoredImage(image.tobytes(), image.height, image.width, RAW)
    image.info = {}  # Pillow would carry comments over from the source
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=storage.quality)
    return StoredImage(stream.getvalue(), image.height, image.width, JPEG)
