"""What every contender is given to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.beton.file import JPEG
from loaders.recipe import MultiCrop
from loaders.sources import open_pictures
from loaders.sources.beton_pictures import BetonPictures


@dataclass(frozen=True)
class Workload:
    """Pictures, crops and means.

    Attributes:
        data: the data set that was named, a ``.beton`` file or a folder.
        beton: the same pictures as a ``.beton``; ``data`` itself if it is one.
        recipe: the views.
        batch_size: pictures in a batch, where there are batches.
        threads: of the contender, one a core that it has.
        device: where the views are wanted.
    """

    data: Path
    beton: Path
    recipe: MultiCrop
    batch_size: int
    threads: int
    device: str = "cpu"

    def streams(self) -> Iterator[np.ndarray]:
        """The pictures' JPEG bytes in a random order, without end."""
        pictures = BetonPictures(self.beton)
        ids = np.flatnonzero(pictures.modes == JPEG)
        generator = np.random.default_rng(0)
        while True:
            for i in generator.permutation(ids):
                yield pictures.read(int(i))

    def long_pass(self, least: int) -> np.ndarray:
        """Sample ids of all pictures, repeated to at least ``least``, so that few ends of a pass are timed."""
        count = len(open_pictures(self.data))
        return np.tile(np.arange(count), -(-least // count))
