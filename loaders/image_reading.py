"""Image files of any kind, opened with Pillow and turned into RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# Pillow reads more, but some of it starts other programs.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


class BadImage(Exception):
    """Bytes that are no readable image; its text is the reason, without the file's name."""


def open_image(data: bytes) -> Image.Image:
    """Opens an image file's bytes, not decoded yet.

    Raises:
        BadImage: they are no image, or one of too many pixels.
    """
    if not data:
        raise BadImage("empty file")
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError as error:
        raise BadImage(f"not an image, begins with {data[:16]!r}") from error
    except Exception as error:  # Pillow raises nearly every type on damaged input
        raise BadImage(reason(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as torchvision's ``ImageFolder`` makes it (alpha dropped, EXIF orientation ignored, first frame), but 16-bit
    grey is scaled instead of clipped.

    Raises:
        BadImage: the range of its values is not known.
    """
    if image.mode == "F":
        raise BadImage("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    return image.convert("RGB")


def reason(error: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
