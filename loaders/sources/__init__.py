"""Decoded pictures, in the order given: the part of a loader that knows files and decoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from loaders.datasets.reference import Reference
from loaders.errors import UserError
from loaders.sources.beton_pictures import BetonPictures
from loaders.sources.decode import Allocate, fresh
from loaders.sources.decoded import DecodedBatch
from loaders.sources.image_folder import ImageFolder
from loaders.sources.split_pictures import SplitPictures

HARDWARE_SHARE = 0.65  # of the pictures, for a GPU's JPEG decoder; the rest goes to its cores. NVIDIA's default


class Pictures(Protocol):
    """A data set on disk: encoded pictures with labels. ``BetonPictures``, ``ImageFolder`` or ``SplitPictures``."""

    path: Path
    labels: np.ndarray  # (n,) int64
    names: Sequence[str]
    classes: list[str]
    decoded_bytes: int | None  # of all pictures as RGB pixels; None where only the pictures themselves tell

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> np.ndarray:
        """The picture as it is stored, uint8 (bytes,); raises ``BadPicture``."""

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        """(H, W, 3) uint8 RGB, in room that ``allocate`` gives; raises ``BadPicture``."""


class Source(Protocol):
    """Decodes batches of sample ids (none of them empty) in the order given."""

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]: ...

    def close(self) -> None: ...


def open_pictures(path: str | Path) -> Pictures:
    """Opens a ``.beton`` file, a folder ``class/picture``, or a split of a data set's public files.

    Args:
        path: of the file or the folder, or a word ``name:split@root`` (see ``loaders.datasets.reference``).

    Raises:
        UserError: nothing there, or none of the three.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path)
    if path.suffix == ".beton":
        return BetonPictures(path)
    reference = Reference.parse(str(path))
    if reference is not None:
        return SplitPictures(path, reference.open())
    what = "does not exist" if not path.exists() else "holds no pictures that can be read here"
    raise UserError(
        f"{path} {what}: give a .beton file, a folder class/picture, or a data set's split such as "
        "cifar10:train@data/cifar10"
    )
