"""What a dataset hands to the converter: names, labels and a way to get each image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.errors import UserError

MOST_LABELS = 1 << 31  # a class index from there on is no class index


@dataclass(frozen=True)
class Split:
    """One part (training, held-out) of a dataset, nothing of it read yet.

    Attributes:
        names: name of every image, relative to the dataset's root, in the order of the dataset.
        labels: class index of every image, int64 ``(n,)``; -1 for an unlabelled one.
        classes: class names by index; a class may have no image.
        load: gives image ``i``, as the bytes of an image file or as uint8 RGB pixels ``(H, W, 3)``; called from several
            threads; raises ``OSError`` where the file cannot be read.
        source: changes when the images do; part of the fingerprint by which a conversion is continued.
        raw: the source is lossless and small, so pixels are stored unless the user asks otherwise.
        stats: gives the bytes of every file and the time of its last change, int64 ``(n, 2)``; None where the images
            are no files of their own.
        sizes: gives the bytes of every image, int64 ``(n,)``, where ``stats`` is None; None where the images are pixels
            of one shape.
    """

    names: Sequence[str]
    labels: np.ndarray
    classes: list[str]
    load: Callable[[int], bytes | np.ndarray]
    source: str
    raw: bool = False
    stats: Callable[[], np.ndarray] | None = None
    sizes: Callable[[], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, labels, classes and source, in hexadecimal."""
        digest = hashlib.sha256(repr((self.classes, self.source)).encode())
        digest.update("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return digest.hexdigest()


def file_stamp(paths: Sequence[Path]) -> str:
    """Sizes and times of files or folders: another text when one of them was written to."""
    stats = [(path.name, path.stat()) for path in paths]
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def need(path: Path, kind: str, layout: str) -> Path:
    """Returns ``path`` if it is there.

    Args:
        path: a folder or file of the dataset.
        kind: ``folder`` or ``file``.
        layout: what the dataset's root must hold, for the sentence.

    Raises:
        UserError: it is missing.
    """
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise UserError(f"there is no {kind} {path.absolute()}; {layout} (--root or data.root names the place)")
    return path
