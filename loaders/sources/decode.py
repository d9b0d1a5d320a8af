"""One encoded picture to RGB pixels, without FFCV: libjpeg-turbo for JPEG, Pillow for everything else."""

from __future__ import annotations

import numpy as np
import torch
from simplejpeg import decode_jpeg

from loaders.picture_reading import BadPicture, open_picture, reason, to_rgb


def decode_picture(data: bytes | np.ndarray) -> torch.Tensor:
    """Decodes a picture file's bytes as torchvision's ImageFolder does.

    Returns:
        Contiguous uint8 tensor (H, W, 3).

    Raises:
        BadPicture: damaged, truncated or not a picture.
    """
    try:
        # Strict: libjpeg would fill what a truncated file lacks with grey and only warn.
        return torch.from_numpy(decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True))
    except ValueError:
        # Another format, CMYK, or damage; Pillow forgives what does not cost pixels, and says what is wrong.
        return _decode_with_pillow(bytes(data))


def _decode_with_pillow(data: bytes) -> torch.Tensor:
    with open_picture(data) as image:
        try:
            return torch.from_numpy(np.array(to_rgb(image)))
        except BadPicture:
            raise
        except Exception as error:  # Pillow raises nearly every type on damaged input
            raise BadPicture(reason(error)) from error
