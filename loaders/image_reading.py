"""Image files of any kind, opened with Pillow and turned into RGB; and the rules that all readers of images share.

**Size.** At most ``LARGEST_PIXELS``, known from the header before memory is taken.

**Pixels** become RGB as torchvision's ``ImageFolder`` makes it: alpha dropped, EXIF orientation ignored (a TIFF's own
orientation is part of its format, and Pillow turns it), first frame. But 16-bit grey is scaled instead of clipped, and
what has no known range is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

LARGEST_PIXELS = 178_956_970  # as Pillow, which takes twice 1 GiB / 4 / 3 for an attack

# Pillow reads more, but some of it starts other programs.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
# The most pixels that a byte of a file can stand for, generously: a JPEG's block of 64 takes a bit at least, PNG's
# deflate makes 1032 bytes of one, a code of a GIF stands for less than 4096 pixels. Of other formats nobody can say.
_PIXELS_A_BYTE = {"JPEG": 1024, "MPO": 1024, "PNG": 8 * 1032, "GIF": 4096, "PPM": 8}
# The same of a TIFF, by its compression: eight pixels of a bit a byte, and what a byte becomes at most.
_TIFF_PIXELS_A_BYTE = {
    "raw": 8,
    "packbits": 8 * 64,
    "tiff_lzw": 8 * 4096,
    "tiff_deflate": 8 * 1032,
    "tiff_adobe_deflate": 8 * 1032,
    "jpeg": 1024,
}
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", *_GREY_16)
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags


class BadImage(Exception):
    """Bytes that are no readable image; its text is the reason, without the file's name."""


def open_image(data: bytes) -> Image.Image:
    """Opens an image file's bytes, not decoded yet.

    Raises:
        BadImage: they are no image, or one of too many pixels, or of pixels whose range is not known.
    """
    return _open(io.BytesIO(data))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, by its header.

    Raises:
        BadImage: it is missing, or as for ``open_image``.
    """
    try:
        with open(path, "rb") as file, _open(file) as image:
            return image.height, image.width
    except OSError as error:
        raise BadImage(error.strerror or reason(error)) from error


def check_size(height: int, width: int, file_bytes: int, kind: str | None, compression: str | None = None) -> None:
    """Refuses what a header says before memory is taken for it.

    Args:
        file_bytes: size of the whole file.
        kind: its format, by Pillow's name.
        compression: a TIFF's, by Pillow's name.

    Raises:
        BadImage: no pixels, more than ``LARGEST_PIXELS``, or more than the file can hold.
    """
    if height < 1 or width < 1:
        raise BadImage(f"its header says {width} x {height} pixels")
    if height * width > LARGEST_PIXELS:
        raise BadImage(f"its header says {width} x {height} pixels, and {LARGEST_PIXELS:,} are read at most")
    most = _TIFF_PIXELS_A_BYTE.get(compression) if kind == "TIFF" else _PIXELS_A_BYTE.get(kind)
    if most is not None and height * width > most * file_bytes:
        raise BadImage(f"its header says {width} x {height} pixels, which its {file_bytes:,} bytes cannot hold")


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image that ``open_image`` opened, or of a part of it; see the module's rule."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode in _PREMULTIPLIED:  # of which Pillow knows no way to RGB
        image = image.convert(_PREMULTIPLIED[image.mode])
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def decoding() -> Iterator[None]:
    """Turns whatever a library raises on an image into ``BadImage``: Pillow raises nearly every type."""
    try:
        yield
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(reason(error)) from error


def reason(error: Exception) -> str:
    """An error's text on one line."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    return " ".join(str(error).split()) or type(error).__name__


def _open(file: BinaryIO) -> Image.Image:
    start, size = file.read(16), file.seek(0, io.SEEK_END)
    if not size:
        raise BadImage("empty file")
    file.seek(0)
    with decoding():
        try:
            image = Image.open(file, formats=_FORMATS)
        except Image.UnidentifiedImageError as error:
            raise BadImage(f"not an image, begins with {start!r}") from error
        except Image.DecompressionBombError as error:
            raise BadImage(f"its header says too many pixels, and {LARGEST_PIXELS:,} are read at most") from error
    check_size(image.height, image.width, size, image.format, image.info.get("compression"))
    _check_range(image)
    return image


def _check_range(image: Image.Image) -> None:
    """Refuses pixels of which nobody can tell what is black and what is white."""
    if image.mode == "F":
        raise BadImage("floating-point pixels, whose range is not known")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which mean 16 bits by it
        raise BadImage("whole-number pixels of 32 bits or with a sign, whose range is not known")
    if image.mode != "I" and image.mode not in _KNOWN:
        raise BadImage(f"pixels of the kind {image.mode}, which is not known")
    if image.format == "TIFF" and image.mode in _GREY_16:
        if image.tag_v2.get(_BITS) != (16,):
            raise BadImage(f"grey of {image.tag_v2.get(_BITS)} bits, which Pillow does not scale")
        if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise BadImage("16-bit grey with 0 for white, which Pillow does not turn")
