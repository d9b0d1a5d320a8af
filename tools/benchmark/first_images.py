"""A part of a dataset as a file: the first images of each class, for trainings that shall end soon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from loaders.sources import Images


def balanced(labels: np.ndarray, count: int) -> Sequence[int]:
    """Ids of the first images of each class, in all ``count`` or, where a class has too few, fewer."""
    import numpy as np

    classes = np.unique(labels)
    firsts = [np.flatnonzero(labels == label)[: count // len(classes)] for label in classes]
    return np.sort(np.concatenate(firsts))


def write_first_images(images: Images, count: int, path: Path) -> None:
    """Writes the first images of each class, ``count`` in all and as many of each, as a ``.beton`` file of their
    pixels, unless it is there.

    Raises:
        UserError: there are not so many.
    """
    import numpy as np

    from loaders.beton.convert import convert
    from loaders.datasets.split import Split
    from loaders.errors import UserError

    chosen = balanced(images.labels, count)
    if len(chosen) != count:
        raise UserError(f"{images.path} has no {count} images with as many of each class: give another --images")
    names, labels = [images.names[i] for i in chosen], np.array([images.labels[i] for i in chosen], np.int64)
    read = lambda i: images.decode(int(chosen[i])).numpy()  # noqa: E731
    convert(Split(names, labels, list(images.classes), read, f"{images.path}", True), path)
