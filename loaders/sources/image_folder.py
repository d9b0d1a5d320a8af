"""A folder ``class/…/image`` as a dataset, without conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from loaders.datasets.folder import class_tree
from loaders.image_reading import BadImage
from loaders.sources.decode import Allocate, decode_image, fresh


class ImageFolder:
    """Every file below a class folder is an image; the label is the class's place in the sorted list of folders.

    Attributes:
        path: the folder.
        classes: names of the class folders, sorted.
        names: file names relative to ``path``, sorted within each class.
        labels: (n,) int64.
        decoded_bytes: None: the files' headers would have to be read.

    Raises:
        UserError: no class folder, or no file in any of them.
    """

    decoded_bytes = None

    def __init__(self, path: Path) -> None:
        tree = class_tree(path)
        self.path, self.classes, self.names, self.labels = path, tree.classes, tree.names, tree.labels

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> np.ndarray:
        """The file's bytes, uint8. Raises ``BadImage``."""
        try:
            return np.fromfile(self.path / self.names[index], dtype=np.uint8)
        except OSError as error:
            raise BadImage(error.strerror or str(error)) from error

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        """Reads and decodes an image: (H, W, 3) uint8 RGB. Raises ``BadImage``."""
        return decode_image(self.encoded(index), allocate)
