"""A split of a dataset's public files as a dataset, without conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from loaders.datasets.split import Split
from loaders.image_reading import BadImage
from loaders.sources.decode import Allocate, copied, decode_image, fresh


class SplitImages:
    """The images of a ``Split``: files of images, or pixels.

    Attributes:
        path: what the split was opened by, for sentences.
        classes, names, labels: the split's.
        decoded_bytes: of all images as RGB pixels; None where the split has files.
    """

    def __init__(self, path: Path, split: Split) -> None:
        self.path, self.classes, self.names, self.labels = path, split.classes, split.names, split.labels
        self._load = split.load
        self.decoded_bytes = len(split) * split.load(0).size if split.raw else None  # such images are of one size

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> np.ndarray:
        """The file's bytes, uint8; of pixels, those of a PPM file. Raises ``BadImage``."""
        data = self._read(index)
        if isinstance(data, np.ndarray):
            height, width, _ = data.shape
            data = b"P6 %d %d 255\n" % (width, height) + data.tobytes()
        return np.frombuffer(data, np.uint8)

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        """Reads and decodes an image: (H, W, 3) uint8 RGB. Raises ``BadImage``."""
        data = self._read(index)
        if isinstance(data, np.ndarray):
            return torch.from_numpy(copied(data.reshape(-1), allocate)).view(data.shape)
        return decode_image(data, allocate)

    def _read(self, index: int) -> bytes | np.ndarray:
        try:
            return self._load(index)
        except OSError as error:
            raise BadImage(error.strerror or str(error)) from error
