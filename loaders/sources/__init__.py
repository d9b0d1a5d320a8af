"""Decoded pictures, in the order given: the part of a loader that knows files and decoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from loaders.errors import UserError
from loaders.quarantine import Quarantine
from loaders.sources.beton_pictures import BetonPictures
from loaders.sources.image_folder import ImageFolder

SOURCES = ("auto", "ffcv", "folder")


class Pictures(Protocol):
    """A data set on disk: encoded pictures with labels. ``BetonPictures`` and ``ImageFolder`` are the two."""

    path: Path
    labels: np.ndarray  # (n,) int64
    names: Sequence[str]
    classes: list[str]

    def __len__(self) -> int: ...

    def decode(self, index: int) -> torch.Tensor:
        """(H, W, 3) uint8 RGB; raises ``BadPicture``."""


@dataclass
class DecodedBatch:
    """Decoded pictures of a batch.

    Attributes:
        pictures: B contiguous uint8 RGB tensors (H, W, 3) of any sizes, valid until the source's next batch.
        heights, widths: (B,) their sizes.
        labels: (B,) int64.
        ids: (B,) int64 sample ids; a bad picture's id is that of the one that stands in for it.
    """

    pictures: list[torch.Tensor]
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


class Source(Protocol):
    """Decodes batches of sample ids (none of them empty) in the order given."""

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]: ...

    def close(self) -> None: ...


def open_pictures(path: str | Path) -> Pictures:
    """Opens a ``.beton`` file or a folder ``class/picture``.

    Raises:
        UserError: nothing there, or neither of the two.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path)
    if path.suffix == ".beton":
        return BetonPictures(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give a .beton file or a folder class/picture")
    raise UserError(f"{path} is neither a .beton file nor a folder class/picture")


def open_source(pictures: Pictures, source: str, threads: int, quarantine: Quarantine) -> tuple[Source, str]:
    """Opens the decoder for a data set.

    Args:
        source: ``"ffcv"`` (compiled decoder, ``.beton`` only), ``"folder"`` (decodes in Python threads, either
            kind of data set) or ``"auto"``: FFCV for a ``.beton`` where FFCV is installed, else threads.

    Returns:
        The source and a few words that say which one it is and why.
    """
    from loaders.sources.folder import FolderSource

    if source not in SOURCES:
        raise UserError(f"unknown source {source!r}: choose one of {', '.join(SOURCES)}")
    is_beton = isinstance(pictures, BetonPictures)
    if source == "ffcv" and not is_beton:
        raise UserError(
            f"FFCV reads .beton files, and {pictures.path} is a folder: convert it with tools/write_ffcv.py"
        )
    if source == "folder" or not is_beton:
        return FolderSource(pictures, threads, quarantine), "Python threads"
    try:
        return _open_beton(pictures, threads, quarantine), "FFCV"
    except ImportError as error:
        cure = f"FFCV does not load ({error}): run make setup, or see the README's installation notes"
        if source == "ffcv":
            raise UserError(cure) from error
        return FolderSource(pictures, threads, quarantine), f"Python threads, since {cure}"


def _open_beton(pictures: BetonPictures, threads: int, quarantine: Quarantine) -> Source:
    torch_threads = torch.get_num_threads()
    from loaders.sources.beton import BetonSource  # importing FFCV sets torch's thread count to 1

    torch.set_num_threads(torch_threads)
    return BetonSource(pictures, threads, quarantine)
