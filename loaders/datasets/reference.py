"""A split of a dataset's public files by one word, ``cifar10:train@/data/cifar10``: what needs no conversion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from loaders.datasets.catalogue import NAMES, default_root, open_dataset
from loaders.datasets.split import Split
from loaders.errors import UserError

_FORM = re.compile(r"(?P<name>[\w-]+):(?P<split>\w+)(?:@(?P<root>.+))?")


@dataclass(frozen=True)
class Reference:
    """``name:split@root``, or ``name:split`` for the dataset's default root.

    Attributes:
        name: one of ``loaders.datasets.catalogue.NAMES``.
        split: ``train``, ``val`` or, for STL-10, ``train_labelled``.
        root: where the public files lie.
    """

    name: str
    split: str
    root: Path

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """What a word refers to; None if it is not of the form, or of no known dataset."""
        found = _FORM.fullmatch(text)
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
