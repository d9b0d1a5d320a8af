"""What a data set holds: how many pictures, of which size, and how many bytes they take on disk and in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loaders.beton.file import JPEG
from loaders.errors import UserError
from loaders.picture_reading import BadPicture, open_picture
from loaders.sources import Pictures
from loaders.sources.beton_pictures import BetonPictures

_SAMPLE = 400  # pictures of a folder that are looked at


@dataclass(frozen=True)
class DataFacts:
    """Facts of a data set; of a folder they are estimates from a random sample of its files.

    Attributes:
        pictures, classes: how many; classes that no picture has count.
        sampled: pictures looked at; 0: all of them.
        unreadable: of those, how many are no pictures.
        stored: bytes on disk.
        jpegs: share of the pictures that are JPEG streams, 0 to 1.
        mean_size, largest_size: mean and largest (height, width) in pixels, each on its own.
        decoded: bytes of all pictures as RGB pixels.
        picture_mean, picture_deviation, picture_most: mean, standard deviation and largest of the bytes of one
            decoded picture.
    """

    pictures: int
    classes: int
    sampled: int
    unreadable: int
    stored: int
    jpegs: float
    mean_size: tuple[float, float]
    largest_size: tuple[int, int]
    decoded: int
    picture_mean: float
    picture_deviation: float
    picture_most: int

    def batch_pixels(self, pictures: int) -> int:
        """Bytes of pixels that a random batch does not exceed: its mean and four standard deviations."""
        likely = pictures * self.picture_mean + 4 * pictures**0.5 * self.picture_deviation
        return int(min(likely, pictures * self.picture_most))


def data_facts(pictures: Pictures) -> DataFacts:
    """Looks at a data set: the index of a ``.beton``, or the headers of some of a folder's files.

    Raises:
        UserError: none of the files looked at is a picture.
    """
    count = len(pictures)
    classes = len(pictures.classes) or len(np.unique(pictures.labels[pictures.labels >= 0]))
    if isinstance(pictures, BetonPictures):
        sampled, unreadable, stored = 0, 0, pictures.path.stat().st_size
        sizes, jpegs = np.stack([pictures.heights, pictures.widths], axis=1), float((pictures.modes == JPEG).mean())
    else:
        sampled = min(_SAMPLE, count)
        sizes, jpegs, file_size = _look_at(pictures, np.random.default_rng(0).permutation(count)[:sampled])
        unreadable, stored = sampled - len(sizes), int(file_size * count)
    areas = sizes.astype(np.int64).prod(axis=1) * 3
    return DataFacts(
        pictures=count,
        classes=classes,
        sampled=sampled if sampled < count else 0,
        unreadable=unreadable,
        stored=stored,
        jpegs=jpegs,
        mean_size=tuple(sizes.mean(axis=0).tolist()),
        largest_size=tuple(sizes.max(axis=0).tolist()),
        decoded=round(areas.mean() * count),
        picture_mean=float(areas.mean()),
        picture_deviation=float(areas.std()),
        picture_most=int(areas.max()),
    )


def _look_at(pictures: Pictures, samples: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Sizes (n, 2) of those that are pictures, the share of JPEGs among them, and the mean bytes of a file."""
    sizes, jpegs, file_bytes = [], 0, 0
    for i in samples.tolist():
        try:
            data = pictures.encoded(i)
            file_bytes += len(data)
            image = open_picture(data.tobytes())
        except BadPicture:
            continue
        sizes.append((image.height, image.width))
        jpegs += image.format == "JPEG"
    if not sizes:
        raise UserError(f"none of the {len(samples)} files of {pictures.path} that were looked at is a picture")
    return np.array(sizes), jpegs / len(sizes), file_bytes / len(samples)
