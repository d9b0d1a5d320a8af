"""COCO in its public layout: ``annotations/instances_train2017.json`` beside ``train2017/``."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fastintl.detection.annotations import AnnotatedImage, AnnotatedSet, clipped, describe_left_out, require_images
from fastintl.detection.outlines import usable
from loaders.errors import UserError


def annotation_file(root: Path, split: str) -> Path:
    """Where a split's annotations lie."""
    return root / "annotations" / f"instances_{split}.json"


def read_coco(root: Path, split: str, masks: bool) -> AnnotatedSet:
    """Reads a split. Crowds are no objects to learn from; COCO's own evaluation knows how to treat them.

    Args:
        root: folder of ``annotations`` and of the images' folders.
        split: name of a folder, ``train2017``.
        masks: whether every object must have an outline.

    Raises:
        UserError: a file is missing, damaged, or refers to an image or class that it does not list.
    """
    path = annotation_file(root, split)
    content = _load(path)
    try:
        categories = {category["id"]: category["name"] for category in content["categories"]}
        entries = {entry["id"]: entry for entry in content["images"]}
        objects = defaultdict(list)
        for found in content["annotations"]:
            objects[found["image_id"]].append(found)
        return _annotated(path, root / split, categories, entries, objects, masks)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no annotation of objects as COCO has it: {type(error).__name__} {error}") from error


def _annotated(
    path: Path, folder: Path, categories: dict[int, str], entries: dict[int, dict], objects: dict, masks: bool
) -> AnnotatedSet:
    category_ids = tuple(sorted(categories))
    labels = {category: label for label, category in enumerate(category_ids, 1)}
    strays = sorted(objects.keys() - entries.keys(), key=str)
    if strays:
        raise UserError(f"{path} has objects in image {strays[0]}, which is not among its images")
    if not entries:
        raise UserError(f"{path} lists no images")
    left_out: dict[str, list[str]] = {"boxes without an area": [], "objects without a usable outline": []}
    images = [
        _image(entry, objects.get(number, []), folder, labels, masks, left_out, path)
        for number, entry in sorted(entries.items())
    ]
    notes = [note for what, places in left_out.items() for note in describe_left_out(what, places)]
    annotated = AnnotatedSet(path, tuple(categories[c] for c in category_ids), category_ids, images, notes)
    require_images(annotated, sorted({image.path.parent for image in images}))
    return annotated


def _image(
    entry: dict[str, Any],
    objects: list[dict[str, Any]],
    folder: Path,
    labels: dict[int, int],
    masks: bool,
    left_out: dict[str, list[str]],
    path: Path,
) -> AnnotatedImage:
    unknown = next((found for found in objects if found["category_id"] not in labels), None)
    if unknown is not None:
        raise UserError(f"{path}: annotation {unknown['id']} is of category {unknown['category_id']}, which it lacks")
    objects = [found for found in objects if not found.get("iscrowd", 0)]
    height, width = int(entry["height"]), int(entry["width"])
    corners = [[x, y, x + w, y + h] for x, y, w, h in (found["bbox"] for found in objects)]
    boxes, keep = clipped(np.array(corners), height, width)
    left_out["boxes without an area"] += [entry["file_name"]] * int((~keep).sum())
    if masks:
        outlined = np.array([usable(found.get("segmentation")) for found in objects], dtype=bool)
        left_out["objects without a usable outline"] += [entry["file_name"]] * int((keep & ~outlined).sum())
        keep &= outlined
    kept = [found for found, good in zip(objects, keep, strict=True) if good]
    return AnnotatedImage(
        id=entry["id"],
        path=folder / entry["file_name"],
        height=height,
        width=width,
        boxes=boxes[keep],
        labels=np.array([labels[found["category_id"]] for found in kept], dtype=np.int64),
        difficult=np.zeros(len(kept), dtype=bool),
        outlines=json.dumps([found["segmentation"] for found in kept]) if masks else None,
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: COCO's annotations lie there, beside the images' folders") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, no annotation of objects as COCO has it")
    return content
