"""A ``.beton`` file as a data set whose pictures can be decoded without FFCV."""

from __future__ import annotations

import numpy as np
import torch

from loaders.beton.file import RAW, BetonFile
from loaders.picture_reading import BadPicture
from loaders.sources.decode import Allocate, copied, decode_picture, fresh


class BetonPictures(BetonFile):
    """A ``BetonFile`` that decodes."""

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all pictures as RGB pixels."""
        return int((self.heights.astype(np.int64) * self.widths).sum()) * 3

    def encoded(self, index: int) -> np.ndarray:
        """The picture as it is stored: a JPEG stream, or raw pixels."""
        return self.read(index)

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        """Decodes a picture: (H, W, 3) uint8 RGB. Raises ``BadPicture``."""
        data, size = self.read(index), (int(self.heights[index]), int(self.widths[index]))
        if self.modes[index] == RAW:
            return torch.from_numpy(copied(data, allocate)).view(*size, 3)
        picture = decode_picture(data, allocate)
        if picture.shape[:2] != size:
            raise BadPicture(f"it is {picture.shape[1]} x {picture.shape[0]} px, its index says {size[1]} x {size[0]}")
        return picture
