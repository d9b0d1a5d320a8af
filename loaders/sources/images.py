"""Datasets: encoded images with labels, from a ``.beton`` file, folders, tars, parquet or a dataset's public files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from loaders.beton.file import RAW, BetonFile
from loaders.datasets.catalogue import Reference
from loaders.datasets.own import OwnImages, listed_split, own_split
from loaders.datasets.places import open_place
from loaders.datasets.split import Split
from loaders.errors import UserError
from loaders.image_reading import BadImage
from loaders.sources.decode import Allocate, copied, decode_image, fresh


class Images(Protocol):
    """A dataset on disk: ``BetonImages`` or ``SplitImages``.

    Attributes:
        path: what it was opened by, for sentences.
        labels: class indices, int64 (n,); -1 where unknown.
        names: n file names; empty ones where unknown.
        classes: class names by label; none where unknown.
        decoded_bytes: size of all images as RGB pixels; None where only the images themselves tell.
    """

    path: Path
    labels: np.ndarray
    names: Sequence[str]
    classes: list[str]
    decoded_bytes: int | None

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> np.ndarray:
        """The image as it is stored, uint8 (bytes,): a file, of pixels a PPM file; raises ``BadImage``."""

    def encoded_here_and_there(self, index: int) -> np.ndarray:
        """``encoded``, for few images of many."""

    def stored_sizes(self) -> np.ndarray:
        """Bytes of every file, or of its pixels, int64 (n,); -1 where it is not there. Reads no image."""

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        """(H, W, 3) uint8 RGB, in room that ``allocate`` gives; raises ``BadImage``."""


def open_images(path: str | Path) -> Images:
    """Opens a ``.beton`` file, what ``loaders.datasets.places`` knows, or a split of a dataset's public files.

    Args:
        path: a file or a folder, a pattern of files, or a word ``name:split@root`` (see
            ``loaders.datasets.catalogue.Reference``).

    Raises:
        UserError: nothing there, or none of these.
    """
    path = Path(path)
    if path.suffix == ".beton" and not path.is_dir():
        return BetonImages(path)
    reference = None if path.exists() else Reference.parse(str(path))
    split = open_place(path) if reference is None else reference.open()
    if split is not None:
        return SplitImages(path, split)
    what = "does not exist" if not path.exists() else "holds no images that can be read here"
    raise UserError(
        f"{path} {what}: give a .beton file, a folder of images, tars or parquet files (several as "
        "'name-{000..146}.tar'), or a dataset's split such as cifar10:train@data/cifar10"
    )


def opened_images(
    data: str | Path | Images | OwnImages | Sequence[str | Path] | Sequence[tuple[str | Path, int]],
) -> Images:
    """What ``make_loader`` takes, as a dataset: what ``open_images`` opens, a list of files, or one's own object."""
    if isinstance(data, str | Path):
        return open_images(data)
    if hasattr(data, "decode"):
        return data
    if hasattr(data, "encoded"):
        return SplitImages(Path(type(data).__name__), own_split(data))
    return SplitImages(Path("the list of files"), listed_split(data))


class BetonImages(BetonFile):
    """A ``.beton`` file whose images can be decoded without FFCV."""

    @property
    def decoded_bytes(self) -> int:
        return int((self.heights.astype(np.int64) * self.widths).sum()) * 3

    def encoded(self, index: int) -> np.ndarray:
        return self._as_file(self.read(index), index)

    def encoded_here_and_there(self, index: int) -> np.ndarray:
        # Mapped pages that are not in memory bring many others along: from a disk a thousand images took 30 s, so 1 s.
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), int(self.sizes[index]), int(self.pointers[index]))
        return self._as_file(np.frombuffer(data, np.uint8), index)

    def _as_file(self, data: np.ndarray, index: int) -> np.ndarray:
        if self.modes[index] == RAW:
            return _ppm(data.reshape(int(self.heights[index]), int(self.widths[index]), 3))
        return data

    def stored_sizes(self) -> np.ndarray:
        return self.sizes

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        data, size = self.read(index), (int(self.heights[index]), int(self.widths[index]))
        if self.modes[index] == RAW:
            return torch.from_numpy(copied(data, allocate)).view(*size, 3)
        image = decode_image(data, allocate)
        if image.shape[:2] != size:
            raise BadImage(f"it is {image.shape[1]} x {image.shape[0]} px, its index says {size[1]} x {size[0]}")
        return image


class SplitImages:
    """The images of a ``Split``, without conversion: files of images, or pixels."""

    def __init__(self, path: Path, split: Split) -> None:
        self.path, self.classes, self.names, self.labels = path, split.classes, split.names, split.labels
        self._load, self._stats, self._sizes = split.load, split.stats, split.sizes
        self.decoded_bytes = len(split) * split.load(0).size if split.raw else None  # such images are of one size

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> np.ndarray:
        data = self._read(index)
        return _ppm(data) if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)

    encoded_here_and_there = encoded

    def stored_sizes(self) -> np.ndarray:
        if self._stats is not None:
            return self._stats()[:, 0]
        if self._sizes is not None:
            return self._sizes()
        return np.full(len(self), self._load(0).size, np.int64)  # pixels, all of one shape

    def decode(self, index: int, allocate: Allocate = fresh) -> torch.Tensor:
        data = self._read(index)
        if isinstance(data, np.ndarray):
            return torch.from_numpy(copied(data.reshape(-1), allocate)).view(data.shape)
        return decode_image(data, allocate)

    def _read(self, index: int) -> bytes | np.ndarray:
        try:
            return self._load(index)
        except OSError as error:
            raise BadImage(error.strerror or str(error)) from error


def _ppm(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) as the bytes of a PPM file."""
    height, width, _ = pixels.shape
    return np.frombuffer(b"P6 %d %d 255\n" % (width, height) + pixels.tobytes(), np.uint8)
