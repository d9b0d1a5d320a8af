"""What a dataset holds: how many images, of which size, and how many bytes they take on disk and in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loaders.beton.file import JPEG
from loaders.errors import UserError
from loaders.image_reading import BadImage, open_image
from loaders.sources import Images
from loaders.sources.images import BetonImages

_SAMPLE = 400  # images of a folder that are looked at


@dataclass(frozen=True)
class DataFacts:
    """Facts of a dataset; of a folder they are estimates from a random sample of its files.

    Attributes:
        images, classes: how many there are; classes that no image has count.
        sampled: how many images were looked at; 0 stands for all.
        unreadable: how many of the files looked at are no images.
        stored: bytes on disk.
        jpegs: share of the images that are JPEG streams, 0 to 1.
        mean_size, largest_size: mean and largest (height, width) in pixels, each on its own.
        decoded: bytes of all images as RGB pixels.
        image_mean, image_deviation, image_most: mean, standard deviation and maximum of a decoded image's bytes.
    """

    images: int
    classes: int
    sampled: int
    unreadable: int
    stored: int
    jpegs: float
    mean_size: tuple[float, float]
    largest_size: tuple[int, int]
    decoded: int
    image_mean: float
    image_deviation: float
    image_most: int

    def batch_pixels(self, images: int) -> int:
        """Bytes of pixels that a random batch does not exceed: its mean and four standard deviations, or its mean and
        the largest image."""
        beyond = max(4 * images**0.5 * self.image_deviation, self.image_most)
        return int(min(images * self.image_mean + beyond, images * self.image_most))


def data_facts(images: Images) -> DataFacts:
    """Looks at a dataset: the index of a ``.beton``, or the headers of some of a folder's files.

    Raises:
        UserError: none of the files looked at is an image.
    """
    count = len(images)
    classes = len(images.classes) or len(np.unique(images.labels[images.labels >= 0]))
    if isinstance(images, BetonImages):
        sampled, unreadable, stored = 0, 0, images.path.stat().st_size
        sizes, jpegs = np.stack([images.heights, images.widths], axis=1), float((images.modes == JPEG).mean())
    else:
        sampled = min(_SAMPLE, count)
        sizes, jpegs, file_size = _look_at(images, np.random.default_rng(0).permutation(count)[:sampled])
        unreadable, stored = sampled - len(sizes), int(file_size * count)
    areas = sizes.astype(np.int64).prod(axis=1) * 3
    return DataFacts(
        images=count,
        classes=classes,
        sampled=sampled if sampled < count else 0,
        unreadable=unreadable,
        stored=stored,
        jpegs=jpegs,
        mean_size=tuple(sizes.mean(axis=0).tolist()),
        largest_size=tuple(sizes.max(axis=0).tolist()),
        decoded=round(areas.mean() * count),
        image_mean=float(areas.mean()),
        image_deviation=float(areas.std()),
        image_most=int(areas.max()),
    )


def _look_at(images: Images, samples: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Sizes (n, 2) of those that are images, the share of JPEGs among them, and the mean bytes of a file."""
    sizes, jpegs, file_bytes = [], 0, 0
    for i in samples.tolist():
        try:
            data = images.encoded(i)
            file_bytes += len(data)
            image = open_image(data.tobytes())
        except BadImage:
            continue
        sizes.append((image.height, image.width))
        jpegs += image.format == "JPEG"
    if not sizes:
        raise UserError(f"none of the {len(samples)} files of {images.path} that were looked at is an image")
    return np.array(sizes), jpegs / len(sizes), file_bytes / len(samples)
