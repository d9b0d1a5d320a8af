"""A ``.beton`` file as a dataset whose images can be decoded without FFCV."""

from __future__ import annotations

import numpy as np
import torch

from loaders.beton.file import RAW, BetonFile
from loaders.image_reading import BadImage
from loaders.sources.decode import Allocate, copied, decode_image, fresh


class BetonImages(BetonFile):
    """A ``BetonFile`` that decodes."""

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all images as RGB pixels."""
        return int((self.heights.astype(np.int64) * self.widths).sum()) * 3

    def encoded(self, index: int) -> np.ndarray:
        """The image as it is stored: a JPEG stream, or raw pixels."""
        return self.read(index)

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        """Decodes an image: (H, W, 3) uint8 RGB. Raises ``BadImage``."""
        data, size = self.read(index), (int(self.heights[index]), int(self.widths[index]))
        if self.modes[index] == RAW:
            return torch.from_numpy(copied(data, allocate)).view(*size, 3)
        image = decode_image(data, allocate)
        if image.shape[:2] != size:
            raise BadImage(f"it is {image.shape[1]} x {image.shape[0]} px, its index says {size[1]} x {size[0]}")
        return image
