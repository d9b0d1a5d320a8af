"""Decoded images, in the order given: the part of a loader that knows files and decoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from loaders.datasets.reference import Reference
from loaders.errors import UserError
from loaders.sources.beton_images import BetonImages
from loaders.sources.decode import Allocate, fresh
from loaders.sources.decoded import DecodedBatch
from loaders.sources.image_folder import ImageFolder
from loaders.sources.split_images import SplitImages

HARDWARE_SHARE = 0.65  # of the images, for a GPU's JPEG decoder; the rest goes to its cores. NVIDIA's default


class Images(Protocol):
    """A dataset on disk: encoded images with labels. ``BetonImages``, ``ImageFolder`` or ``SplitImages``."""

    path: Path
    labels: np.ndarray  # (n,) int64
    names: Sequence[str]
    classes: list[str]
    decoded_bytes: int | None  # of all images as RGB pixels; None where only the images themselves tell

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> np.ndarray:
        """The image as it is stored, uint8 (bytes,); raises ``BadImage``."""

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        """(H, W, 3) uint8 RGB, in room that ``allocate`` gives; raises ``BadImage``."""


class Source(Protocol):
    """Decodes batches of sample ids (none of them empty) in the order given."""

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]: ...

    def close(self) -> None: ...


def open_images(path: str | Path) -> Images:
    """Opens a ``.beton`` file, a folder ``class/image``, or a split of a dataset's public files.

    Args:
        path: of the file or the folder, or a word ``name:split@root`` (see ``loaders.datasets.reference``).

    Raises:
        UserError: nothing there, or none of the three.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path)
    if path.suffix == ".beton":
        return BetonImages(path)
    reference = Reference.parse(str(path))
    if reference is not None:
        return SplitImages(path, reference.open())
    what = "does not exist" if not path.exists() else "holds no images that can be read here"
    raise UserError(
        f"{path} {what}: give a .beton file, a folder class/image, or a dataset's split such as "
        "cifar10:train@data/cifar10"
    )
