"""Annotated images from the public layouts of PASCAL VOC and COCO.

VOC: ``VOC2007/{Annotations,ImageSets/Main,JPEGImages}``. COCO: ``annotations/instances_train2017.json`` beside
``train2017/``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from fastintl.detection.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    clipped,
    describe_left_out,
    is_usable,
    joined,
    require_coco_masks,
    require_images,
    require_same_classes,
    with_objects,
)
from fastintl.detection.config import DetectionConfig
from loaders.errors import UserError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read_sets(config: DetectionConfig) -> tuple[AnnotatedSet, AnnotatedSet]:
    """The images with objects to learn from, and all images to test on.

    Raises:
        UserError: something is missing or damaged, or the two do not have the same classes.
    """
    if config.data.root is None:
        raise UserError("no images given: set data.root (--root of the tool) to the folder of the dataset")
    if not config.data.train:
        raise UserError("data.train: [] names no split; give one or more")
    train = joined([_read(config, split) for split in config.data.train])
    test = _read(config, config.data.test)
    require_same_classes(train, test)
    if not any(len(image.boxes) for image in test.images):
        raise UserError(f"{test.path} lists images without a single object to find")
    return with_objects(train), test


def _read(config: DetectionConfig, split: str) -> AnnotatedSet:
    root = Path(config.data.root)
    if config.data.layout == "voc":
        return read_voc(root, split, config.data.classes or VOC_CLASSES)
    return read_coco(root, split, config.model.masks)


# PASCAL VOC


def read_voc(root: Path, split: str, classes: Sequence[str] = VOC_CLASSES) -> AnnotatedSet:
    """Reads a split of PASCAL VOC.

    Args:
        root: folder that holds ``VOC2007`` and the like, or their ``VOCdevkit``.
        split: year and list, such as ``VOC2007/trainval``.
        classes: the classes' names, in the order of the labels.

    Raises:
        UserError: a list, an annotation or an image is missing or cannot be read, or an object is of no known class.
    """
    year, slash, name = split.partition("/")
    if not (year and slash and name):
        raise UserError(f"{split} is no split of VOC: give year and list, such as VOC2007/trainval")
    home = next((home for home in (root / year, root / "VOCdevkit" / year) if home.is_dir()), None)
    if home is None:
        raise UserError(f"{root} holds no folder {year} (nor VOCdevkit/{year}): unpack VOC's archives there")
    listed = home / "ImageSets" / "Main" / f"{name}.txt"
    if not listed.is_file():
        raise UserError(f"{listed} does not exist: it lists the images of {split}")
    # In the list of a single class a number follows the name.
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    if not names:
        raise UserError(f"{listed} lists no images")
    degenerate: list[Path] = []
    labels = {name: label for label, name in enumerate(classes, 1)}
    images = [_voc_image(home, name, labels, degenerate) for name in names]
    notes = describe_left_out("boxes without an area", degenerate)
    annotated = AnnotatedSet(listed, tuple(classes), tuple(range(1, len(classes) + 1)), images, notes)
    require_images(annotated, [home / "JPEGImages"])
    return annotated


def _voc_image(home: Path, name: str, labels: dict[str, int], degenerate: list[Path]) -> AnnotatedImage:
    path = home / "Annotations" / f"{name}.xml"
    try:
        tree = ElementTree.parse(path)
        height, width = (int(tree.findtext(f"size/{side}", "")) for side in ("height", "width"))
        objects = [_voc_object(element) for element in tree.iterfind("object")]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: it has the objects of an image of the list") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} cannot be read as VOC's annotation of an image: {error}") from error
    unknown = next((kind for kind, _, _ in objects if kind not in labels), None)
    if unknown is not None:
        raise UserError(
            f"{path} has an object of the class {unknown!r}, which is none of {', '.join(labels)}: set data.classes"
        )
    boxes, whole = clipped(np.array([box for _, box, _ in objects]), height, width)
    degenerate += [path] * int((~whole).sum())
    return AnnotatedImage(
        id=name,
        path=home / "JPEGImages" / f"{name}.jpg",
        height=height,
        width=width,
        boxes=boxes[whole],
        labels=np.array([labels[kind] for kind, _, _ in objects], dtype=np.int64)[whole],
        difficult=np.array([difficult for _, _, difficult in objects], dtype=bool)[whole],
    )


def _voc_object(element: ElementTree.Element) -> tuple[str, list[float], bool]:
    """Class, box, and whether it is difficult. VOC counts pixels from 1, and a box includes its last ones."""
    left, top, right, bottom = (
        float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = element.findtext("difficult", "0").strip() == "1"
    return element.findtext("name", "").strip(), [left - 1, top - 1, right, bottom], difficult


# COCO


def annotation_file(root: Path, split: str) -> Path:
    """The file of a split's annotations."""
    return root / "annotations" / f"instances_{split}.json"


def read_coco(root: Path, split: str, masks: bool) -> AnnotatedSet:
    """Reads a split of COCO. Crowds are no objects to learn from; COCO's own evaluation knows how to treat them.

    Args:
        root: folder that holds ``annotations`` and the images' folders.
        split: name of a folder of images, such as ``train2017``.
        masks: whether every object must have an outline.

    Raises:
        UserError: a file is missing, damaged, or refers to an image or class that it does not list.
    """
    require_coco_masks()  # or its absence would be noticed in the test only, hours later
    path = annotation_file(root, split)
    content = _coco_content(path)
    try:
        categories = {category["id"]: category["name"] for category in content["categories"]}
        entries = {entry["id"]: entry for entry in content["images"]}
        objects = defaultdict(list)
        for found in content["annotations"]:
            objects[found["image_id"]].append(found)
        return _coco_set(path, root / split, categories, entries, objects, masks)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no annotation of objects as COCO has it: {type(error).__name__} {error}") from error


def _coco_set(
    path: Path, folder: Path, categories: dict[int, str], entries: dict[int, dict], objects: dict, masks: bool
) -> AnnotatedSet:
    category_ids = tuple(sorted(categories))
    labels = {category: label for label, category in enumerate(category_ids, 1)}
    strays = sorted(objects.keys() - entries.keys(), key=str)
    if strays:
        raise UserError(f"{path} has objects in image {strays[0]}, which is not among its images")
    if not entries:
        raise UserError(f"{path} lists no images")
    for found in (found for in_image in objects.values() for found in in_image):
        if found["category_id"] not in labels:
            raise UserError(f"{path}: annotation {found['id']} is of category {found['category_id']}, which it lacks")
    left_out: dict[str, list[str]] = {"boxes without an area": [], "objects without a usable outline": []}
    images = [
        _coco_image(entry, objects.get(number, []), folder, labels, masks, left_out)
        for number, entry in sorted(entries.items())
    ]
    notes = [note for what, places in left_out.items() for note in describe_left_out(what, places)]
    annotated = AnnotatedSet(path, tuple(categories[c] for c in category_ids), category_ids, images, notes)
    require_images(annotated, sorted({image.path.parent for image in images}))
    return annotated


def _coco_image(
    entry: dict, objects: list[dict], folder: Path, labels: dict[int, int], masks: bool, left_out: dict[str, list[str]]
) -> AnnotatedImage:
    objects = [found for found in objects if not found.get("iscrowd", 0)]
    height, width = int(entry["height"]), int(entry["width"])
    corners = [[x, y, x + w, y + h] for x, y, w, h in (found["bbox"] for found in objects)]
    boxes, keep = clipped(np.array(corners), height, width)
    left_out["boxes without an area"] += [entry["file_name"]] * int((~keep).sum())
    if masks:
        outlined = np.array([is_usable(found.get("segmentation")) for found in objects], dtype=bool)
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


def _coco_content(path: Path) -> dict[str, Any]:
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
