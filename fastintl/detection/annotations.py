"""Images with the boxes, labels and outlines of their objects, whatever files they were read from.

Boxes are (n, 4): left, top, right, bottom in pixels, of which the first spans 0 to 1. What is here has been checked: a
training and its test use these objects, and never look at the dataset's own files again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastintl.detection.outlines import decode
from loaders.content import digest_of
from loaders.datasets.folder import FileReader
from loaders.errors import UserError
from loaders.image_reading import BadImage, image_size
from loaders.progress import Progress

_LISTED = 5
_READERS = 8  # threads: a file's header is soon read, once a disk or a server has found it
_AT_ONCE = 256


@dataclass(frozen=True)
class Crowds:
    """The k crowds of an image: regions of many objects (COCO). Nothing is learnt from them, and what a detector finds
    there counts neither for nor against it.

    Attributes:
        boxes, labels, outlines: as those of ``AnnotatedImage``.
    """

    boxes: np.ndarray
    labels: np.ndarray
    outlines: tuple[bytes, ...] | None = None


@dataclass(frozen=True)
class AnnotatedImage:
    """One image with n objects.

    Attributes:
        id: its name in the dataset's own files.
        height, width: in pixels, as the annotation states them.
        boxes: (n, 4) float32, within the image and with an area.
        labels: (n,) int64 from 1; 0 is the background.
        difficult: (n,) bool; a detector learns from these, but in VOC's test they are ignored.
        outlines: n outlines as COCO's compressed run lengths, none of them empty; None where there are only boxes.
        crowds: COCO's crowds; None where there are none.
    """

    id: int | str
    path: Path
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    outlines: tuple[bytes, ...] | None = None
    crowds: Crowds | None = None

    def masks(self) -> np.ndarray:
        """The objects' masks, (n, height, width) uint8; only where there are outlines."""
        return decode(self.outlines, self.height, self.width)


@dataclass(frozen=True)
class AnnotatedSet:
    """A split of a dataset.

    Attributes:
        path: the file that lists it, for messages.
        classes: names; label i is ``classes[i - 1]``.
        category_ids: the classes' numbers in the dataset's own files.
        notes: what was left out, a sentence each.
    """

    path: Path
    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    images: Sequence[AnnotatedImage]
    notes: Sequence[str] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        """The images' file names, without folders."""
        return [image.path.name for image in self.images]

    @property
    def labels(self) -> np.ndarray:
        """The labels of all objects, image by image, int64."""
        return np.concatenate([image.labels for image in self.images])

    def content(self) -> str:
        """The identity of what the images hold, see ``loaders.content``, and of all boxes and outlines."""
        root = os.path.commonpath([image.path.parent for image in self.images])
        files = FileReader(Path(root), [os.fspath(image.path.relative_to(root)) for image in self.images])

        def read(index: int) -> bytes:
            try:
                return files(index)
            except OSError:  # the training says so
                return b""

        digest = hashlib.sha256(digest_of(files.stats()[:, 0], read).encode())
        for image in self.images:
            digest.update(image.boxes.tobytes())
            for outline in image.outlines or ():
                digest.update(outline)
        return digest.hexdigest()


def joined(sets: Sequence[AnnotatedSet]) -> AnnotatedSet:
    """Several splits as one.

    Raises:
        UserError: their classes differ.
    """
    for other in sets[1:]:
        require_same_classes(sets[0], other)
    images = [image for one in sets for image in one.images]
    notes = [note for one in sets for note in one.notes]
    return replace(sets[0], images=images, notes=notes)


def require_same_classes(first: AnnotatedSet, second: AnnotatedSet) -> None:
    """Raises ``UserError`` unless a label means the same class in both sets; names the classes that differ."""
    theirs = dict(zip(second.category_ids, second.classes, strict=True))
    ours = dict(zip(first.category_ids, first.classes, strict=True))
    if ours == theirs:
        return
    differing = sorted(set(ours.items()) ^ set(theirs.items()))
    listed = ", ".join(f"{number} {name}" for number, name in differing[:_LISTED])
    raise UserError(
        f"{first.path} and {second.path} must have the same classes under the same numbers: only one of them has "
        f"{listed}"
    )


def with_objects(annotated: AnnotatedSet) -> AnnotatedSet:
    """The images that have objects, for training; says how many have none.

    Raises:
        UserError: none has.
    """
    kept = [image for image in annotated.images if len(image.boxes)]
    if not kept:
        raise UserError(f"{annotated.path} lists {len(annotated)} images without a single object to learn from")
    notes = list(annotated.notes)
    if len(kept) < len(annotated):
        notes.append(f"not trained on: images without objects, {len(annotated) - len(kept):,} of {len(annotated):,}")
    return replace(annotated, images=kept, notes=notes)


def require_images(path: Path, folders: Sequence[Path], images: Sequence[Path]) -> None:
    """Raises ``UserError`` if an image's file is missing; names the first.

    Args:
        path: the file that lists the images, for messages.
        folders: the images' folders; listed once, which is faster than to ask for each file.
    """
    present = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist, where {path} has its images")
        try:
            present |= {folder / name for name in os.listdir(folder)}
        except OSError as error:
            raise UserError(f"{folder} cannot be listed: {error.strerror or error}") from error
    missing = [image for image in images if image not in present]
    if missing:
        raise UserError(f"images of {path} are missing, {len(missing):,} in all, the first is {missing[0]}")


def image_sizes(title: str, images: Sequence[Path], shown: bool) -> list[tuple[int, int]]:
    """Height and width of each image, from the files' headers.

    Args:
        title: of the progress.
        shown: whether there is one.

    Raises:
        UserError: a file is no image; names the first.
    """
    sizes = []
    with ThreadPoolExecutor(_READERS) as pool, Progress(title, "image sizes", len(images), shown=shown) as progress:
        for size in pool.map(_image_size, images):
            sizes.append(size)
            if len(sizes) % _AT_ONCE == 0:
                progress.advance(_AT_ONCE)
    return sizes


def _image_size(path: Path) -> tuple[int, int]:
    try:
        return image_size(path)
    except BadImage as error:
        raise UserError(f"the image {path} cannot be read: {error}") from error


def require_size(path: Path, found: tuple[int, int], stated: tuple[int, int]) -> None:
    """Raises ``UserError`` unless an image is of the size, (height, width), that its annotation states."""
    if found != stated:
        turned = ", turned as its EXIF orientation may say, which is ignored here" if found == stated[::-1] else ""
        raise UserError(
            f"{path} is {found[1]} x {found[0]} pixels, but its annotation says {stated[1]} x {stated[0]}{turned}"
        )


def clipped(boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to the image, and (n,) bool: which of them still have an area."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    return boxes, (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def describe_left_out(what: str, left_out: Sequence[Any]) -> list[str]:
    """A note on objects that were left out, from the images where they were; none if there are none."""
    return [f"left out: {what}, {len(left_out):,}, the first in {left_out[0]}"] if left_out else []
