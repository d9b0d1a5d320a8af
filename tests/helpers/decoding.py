"""Batches decoded by one of the sources."""

import numpy as np

from loaders.sources import open_images
from loaders.sources.choice import open_source
from loaders.sources.quarantine import Quarantine

IDS = [np.array([3, 1, 59, 7]), np.array([0, 2, 4, 6]), np.array([58, 9])]


def decode_all(path, source: str, id_batches=IDS, threads: int = 2, max_bad: float = 0.05, listed=None):
    """Opens a dataset by a source, and decodes batches of it.

    Returns:
        Of each batch: its images, heights, widths, labels and ids.
    """
    images = open_images(path)
    opened, _ = open_source(images, source, threads, Quarantine(images.path, len(images), max_bad, listed))
    found = []
    for batch in opened.batches(id_batches):
        copies = [image.clone() for image in batch.images]  # a batch is valid until the next
        found.append((copies, batch.heights.tolist(), batch.widths.tolist(), batch.labels.tolist(), batch.ids.tolist()))
    opened.close()
    return found
