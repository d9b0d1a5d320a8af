"""Images with the boxes, labels and outlines of their objects, whatever files they were read from.

Boxes are (n, 4): left, top, right, bottom in pixels, of which the first spans 0 to 1. Outlines are in COCO's formats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from loaders.errors import UserError

_LISTED = 5


@dataclass(frozen=True)
class AnnotatedImage:
    """One image with n objects.

    Attributes:
        id: its name in the dataset's own files.
        height, width: in pixels, as the annotation states them.
        boxes: (n, 4) float32, within the image and with an area.
        labels: (n,) int64 from 1; 0 is the background.
        difficult: (n,) bool; a detector learns from these, but in VOC's test they are ignored.
        outlines: n outlines in COCO's formats (polygons or run lengths) as JSON; None where there are only boxes.
            Text, for the 860,000 objects of COCO would be ten times as large as lists.
    """

    id: int | str
    path: Path
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    outlines: str | None = None

    def masks(self) -> np.ndarray:
        """The objects' masks, (n, height, width) uint8; only where there are outlines."""
        masks = [decode(outline, self.height, self.width) for outline in json.loads(self.outlines)]
        return np.stack(masks) if masks else np.zeros((0, self.height, self.width), np.uint8)


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
    category_ids: tuple[int, ...]
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


def require_images(annotated: AnnotatedSet, folders: Sequence[Path]) -> None:
    """Raises ``UserError`` if an image's file is missing; names the first.

    Args:
        folders: the images' folders; listed once, which is faster than to ask for each file.
    """
    present = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist, where {annotated.path} has its images")
        present |= {folder / name for name in (entry.name for entry in folder.iterdir())}
    missing = [image.path for image in annotated.images if image.path not in present]
    if missing:
        raise UserError(f"images of {annotated.path} are missing, {len(missing):,} in all, the first is {missing[0]}")


def clipped(boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to the image, and (n,) bool: which of them still have an area."""
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    boxes = np.minimum(np.maximum(boxes, 0), np.array([width, height, width, height], dtype=np.float32))
    return boxes, (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def describe_left_out(what: str, left_out: Sequence[Any]) -> list[str]:
    """A note on objects that were left out, from the images where they were; none if there are none."""
    return [f"left out: {what}, {len(left_out):,}, the first in {left_out[0]}"] if left_out else []


def is_usable(outline: Any) -> bool:
    """Whether a mask can be made of it: run lengths, or polygons of three corners or more."""
    if isinstance(outline, dict):
        return "counts" in outline and "size" in outline
    return bool(outline) and isinstance(outline, list) and all(map(_is_polygon, outline))


def decode(outline: Any, height: int, width: int) -> np.ndarray:
    """The mask inside an outline, (height, width) uint8, 1 inside."""
    coco_masks = require_coco_masks()
    if isinstance(outline, list):
        return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(outline, height, width)))
    if isinstance(outline["counts"], list):
        outline = coco_masks.frPyObjects(outline, height, width)
    return coco_masks.decode(outline)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask (height, width) uint8 as compressed run lengths that JSON can hold."""
    encoded = require_coco_masks().encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def require_coco_masks() -> ModuleType:
    """pycocotools' functions on masks; raises ``UserError`` where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError("COCO's annotations need a package: pip install -c constraints.txt pycocotools") from error
    return mask


def _is_polygon(points: Any) -> bool:
    return isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
