"""What tells a dataset from another, wherever it lies and whatever decodes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from loaders.sources import Images


class Listed(Protocol):
    """A list of images: their number, and a name and a label of each. A detector's labels are those of its objects."""

    names: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int: ...


def fingerprint(images: Images, samples: Sequence[int] = ()) -> str:
    """The SHA-256 of a dataset's names and labels, in order.

    Args:
        samples: the ids of those that are used, where not all are.
    """
    digest = hashlib.sha256(_text(images.names))
    digest.update(_numbers(images.labels))
    digest.update(_numbers(samples))
    return digest.hexdigest()


def description(images: Listed, content: str | None = None) -> dict[str, Any]:
    """What a checkpoint keeps of the images it was trained on: plain values.

    An image's place in the list decides when it comes and how it is cropped, so the order counts. A folder and a
    file that ``tools/write_ffcv.py`` wrote from it have the same names and labels, unless it had to leave images out.

    Args:
        content: what ``loaders.content`` says of the images' bytes; None where nothing does.

    Returns:
        ``count``, the SHA-256 of all ``labels`` and of all ``names``, and ``content``; ``names`` is None where there
        are none, as in files of FFCV's own writer.
    """
    return {
        "count": len(images),
        "labels": hashlib.sha256(_numbers(images.labels)).hexdigest(),
        "names": hashlib.sha256(_text(images.names)).hexdigest() if any(images.names) else None,
        "content": content,
    }


def difference(saved: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """What the images of ``saved`` have that those of ``found`` have not, in words; None if they may be the same.

    Compares their number, their labels and, where both have them, their names; neither bytes (see
    ``is_stored_otherwise``) nor places.
    """
    if saved["count"] != found["count"]:
        return f"{saved['count']:,} images, and these are {found['count']:,}"
    if saved["labels"] != found["labels"]:
        return "images with other labels"
    if saved["names"] and found["names"] and saved["names"] != found["names"]:
        return "images of other names"
    return None


def is_stored_otherwise(saved: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether both are known to hold other bytes. Checkpoints of older versions say nothing of that."""
    return None not in (saved.get("content"), found.get("content")) and saved["content"] != found["content"]


def _text(names: Sequence[str]) -> bytes:
    return "\n".join(names).encode("utf-8", "surrogateescape")  # file names need not be valid UTF-8


def _numbers(values: Sequence[int]) -> bytes:
    return np.asarray(values, np.int64).tobytes()
