"""Images that a program brings itself: a list of files with labels, or an object that gives encoded images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from loaders.datasets.folder import FileReader
from loaders.datasets.split import Split, file_stamp
from loaders.errors import UserError


class OwnImages(Protocol):
    """What an object of one's own has to have.

    Attributes:
        labels: class indices, (n,) whole numbers, -1 where unknown; may be left out.
        names: n strings, for messages and to know the images again; may be left out.
    """

    labels: Sequence[int]
    names: Sequence[str]

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes:
        """The bytes of an image file, or uint8 RGB pixels (H, W, 3). Called from several threads at once. An
        ``OSError`` says that this image cannot be read, and another takes its place."""


def own_split(images: OwnImages) -> Split:
    """An object of one's own as a dataset.

    Raises:
        UserError: it has not as many labels or names as images, or labels that are none.
    """
    count, what = len(images), type(images).__name__
    names = list(getattr(images, "names", None) or [""] * count)
    labels = _labels(getattr(images, "labels", None), count, what)
    if not count or len(names) != count:
        raise UserError(
            f"{what} has {count} images and {len(names)} names; it needs a name of each, or no names at all"
        )

    def load(index: int) -> bytes | np.ndarray:
        data = images.encoded(index)
        return data.tobytes() if isinstance(data, np.ndarray) and data.ndim == 1 else data

    def sizes() -> np.ndarray:
        return np.array([_size(load, index) for index in range(count)], np.int64)

    return Split(names, labels, [], load, what, sizes=sizes)


def listed_split(files: Sequence[str | Path] | Sequence[tuple[str | Path, int]]) -> Split:
    """Files with labels, or files alone, as a dataset.

    Raises:
        UserError: the list is empty, or its items are neither.
    """
    pairs = [item if isinstance(item, tuple | list) else (item, -1) for item in files]
    if not pairs:
        raise UserError("the list of files is empty")
    wrong = next((pair for pair in pairs if len(pair) != 2 or not isinstance(pair[0], str | Path)), None)
    if wrong is not None:
        raise UserError(f"the list of files has the item {wrong!r}, which is neither a file nor (file, label)")
    names = [str(file) for file, _ in pairs]
    labels = _labels([label for _, label in pairs], len(pairs), "the list of files")
    read = FileReader(Path(""), names)
    return Split(names, labels, [], read, file_stamp([]), stats=read.stats)


def _labels(labels: Sequence[int] | None, count: int, what: str) -> np.ndarray:
    found = np.full(count, -1) if labels is None else np.asarray(labels)
    if found.shape != (count,) or found.dtype.kind not in "iu" or count and found.min() < -1:
        raise UserError(
            f"the labels of {what} must be {count} whole numbers from 0 on, or -1 where there is none; they are "
            f"{found.dtype} of shape {list(found.shape)}"
        )
    return found.astype(np.int64)


def _size(load, index: int) -> int:
    try:
        data = load(index)
    except OSError:
        return -1
    return data.size if isinstance(data, np.ndarray) else len(data)
