"""What every contender is given to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.beton.file import JPEG
from loaders.recipe import MultiCrop
from loaders.sources import open_images
from loaders.sources.images import BetonImages


@dataclass(frozen=True)
class Workload:
    """Images, crops and means.

    Attributes:
        data: the dataset that was named, a ``.beton`` file or a folder.
        beton: the same images as a ``.beton``; ``data`` itself if it is one.
        recipe: the views.
        batch_size: images in a batch, where there are batches.
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
        """The images' JPEG bytes in a random order, without end."""
        images = BetonImages(self.beton)
        ids = np.flatnonzero(images.modes == JPEG)
        generator = np.random.default_rng(0)
        while True:
            for i in generator.permutation(ids):
                yield images.read(int(i))

    def long_pass(self, least: int) -> np.ndarray:
        """Sample ids of all images, repeated to at least ``least``, so that few ends of a pass are timed."""
        count = len(open_images(self.data))
        return np.tile(np.arange(count), -(-least // count))
