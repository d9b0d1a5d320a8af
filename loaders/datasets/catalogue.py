"""Datasets by name, and one split of one of them by a word, ``cifar10:train@/data/cifar10``.

A dataset is a dictionary of splits: ``train``, ``val`` and, for STL-10, ``train_labelled``.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loaders.datasets.cifar import cifar10_splits, cifar100_splits
from loaders.datasets.demo import demo_splits
from loaders.datasets.folder import folder_splits, unlabelled_tree
from loaders.datasets.imagenet import imagenet100_splits, imagenet_splits, tiny_imagenet_splits
from loaders.datasets.places import archive_splits
from loaders.datasets.split import Split
from loaders.datasets.stl10 import stl10_splits
from loaders.errors import UserError

ROOT_VARIABLE = "FASTINTL_DATA"
_FROM_ROOT: dict[str, Callable[[Path], dict[str, Split]]] = {
    "imagenet": imagenet_splits,
    "imagenet100": imagenet100_splits,
    "cifar10": cifar10_splits,
    "cifar100": cifar100_splits,
    "stl10": stl10_splits,
    "tiny-imagenet": tiny_imagenet_splits,
    "unlabelled": lambda root: {"train": unlabelled_tree(root)},
}
_CUT_IN_TWO: dict[str, Callable[[Path, float], dict[str, Split]]] = {
    "folder": folder_splits,
    "tars": archive_splits,
    "parquet": archive_splits,
}
NAMES = (*_FROM_ROOT, *_CUT_IN_TWO, "demo")
WITH_UNLABELLED = ("stl10",)  # their train_labelled is the part of train that has labels
_REFERENCE = re.compile(r"(?P<name>[\w-]+):(?P<split>\w+)(?:@(?P<root>.+))?")


def default_root(name: str) -> Path:
    """Where a dataset is looked for: ``$FASTINTL_DATA/<name>``, or ``data/<name>`` without the variable."""
    folder = "imagenet" if name == "imagenet100" else name
    return Path(os.environ.get(ROOT_VARIABLE) or "data") / folder


def open_dataset(name: str, root: Path | None = None, *, val_share: float = 0.1, seed: int = 0) -> dict[str, Split]:
    """Lists a dataset's images and labels.

    Args:
        name: one of ``NAMES``.
        root: the folder that holds it; ``default_root(name)`` if None; ``demo`` has none.
        val_share: share of the images of ``folder``, ``tars`` or ``parquet`` to hold out where no part is for that.
        seed: seed of the images that ``demo`` draws.

    Raises:
        UserError: an unknown name, or a root that lacks a folder or file of the layout.
    """
    root = default_root(name) if root is None else Path(root)
    if name not in NAMES:
        raise UserError(f"there is no dataset named {name}; known: {', '.join(NAMES)}")
    if name == "demo":
        return demo_splits(seed)
    try:
        return _CUT_IN_TWO[name](root, val_share) if name in _CUT_IN_TWO else _FROM_ROOT[name](root)
    except OSError as error:
        raise UserError(f"{error.filename or root} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"a text file of {name} in {root} is not text: {error}") from error


@dataclass(frozen=True)
class Reference:
    """``name:split@root``, or ``name:split`` for the dataset's default root.

    Attributes:
        name: one of ``NAMES``.
        split: ``train``, ``val`` or, for STL-10, ``train_labelled``.
        root: the folder that holds the public files.
    """

    name: str
    split: str
    root: Path

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """What a word refers to; None if it is not of the form, or of no known dataset."""
        found = _REFERENCE.fullmatch(text)
        if found is None or found["name"] not in NAMES:
            return None
        return cls(found["name"], found["split"], Path(found["root"] or default_root(found["name"])))

    def __str__(self) -> str:
        return f"{self.name}:{self.split}@{self.root}"

    def open(self) -> Split:
        """Lists the split's images.

        Raises:
            UserError: no such split, or the files are not there.
        """
        splits = open_dataset(self.name, self.root)
        if self.split not in splits:
            raise UserError(f"{self.name} has no split {self.split}; it has {', '.join(splits)}")
        return splits[self.split]
