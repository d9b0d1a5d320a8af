"""A ``.beton`` file as a data set whose pictures can be decoded without FFCV."""

from __future__ import annotations

import torch

from loaders.beton_file import RAW, BetonFile
from loaders.sources.decode import decode_picture


class BetonPictures(BetonFile):
    """A ``BetonFile`` that decodes."""

    def decode(self, index: int) -> torch.Tensor:
        """Decodes a picture: (H, W, 3) uint8 RGB. Raises ``BadPicture``."""
        data = self.read(index)
        if self.modes[index] == RAW:
            return torch.from_numpy(data.copy()).view(int(self.heights[index]), int(self.widths[index]), 3)
        return decode_picture(data)
