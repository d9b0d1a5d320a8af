"""Annotated images in PASCAL VOC's layout: ``VOC2007/{Annotations,ImageSets/Main,JPEGImages}``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from fastintl.detection.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    clipped,
    describe_left_out,
    image_sizes,
    require_images,
    require_size,
)
from loaders.errors import UserError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_MARKS = {"": False, "0": False, "1": True}


@dataclass(frozen=True)
class _Objects:
    """What an annotation says: the size, (height, width), or None, and of each object class, box, and whether it is
    difficult."""

    size: tuple[int, int] | None
    found: list[tuple[str, list[float], bool]]


def read_voc(root: Path, split: str, classes: Sequence[str] = VOC_CLASSES, shown: bool = False) -> AnnotatedSet:
    """Reads a split of PASCAL VOC, and checks all that a training or a test will use of it.

    Args:
        root: folder that holds ``VOC2007`` and the like, or their ``VOCdevkit``.
        split: year and list, such as ``VOC2007/trainval``.
        classes: the classes' names, in the order of the labels.
        shown: whether the progress is shown.

    Raises:
        UserError: a list, an annotation or an image is missing or cannot be read, an object is of no known class, or
            an image is not of the size that its annotation states. (Where it states none the image's own is taken.)
    """
    year, slash, name = split.partition("/")
    if not (year and slash and name):
        raise UserError(f"{split} is no split of VOC: give year and list, such as VOC2007/trainval")
    home = next((home for home in (root / year, root / "VOCdevkit" / year) if home.is_dir()), None)
    if home is None:
        raise UserError(f"{root} holds no folder {year} (nor VOCdevkit/{year}): unpack VOC's archives there")
    listed = home / "ImageSets" / "Main" / f"{name}.txt"
    names = _names(listed, split)
    labels = {name: label for label, name in enumerate(classes, 1)}
    annotations = [_annotation(home / "Annotations" / f"{name}.xml", labels) for name in names]
    files = [home / "JPEGImages" / f"{name}.jpg" for name in names]
    require_images(listed, [home / "JPEGImages"], files)
    left_out: dict[str, list[Path]] = {"boxes without an area": [], "objects that are there twice": []}
    images = []
    for name, file, objects, size in zip(names, files, annotations, image_sizes(split, files, shown), strict=True):
        require_size(file, size, objects.size or size)
        annotation = home / "Annotations" / f"{name}.xml"
        images.append(_image(name, file, annotation, size, objects.found, labels, left_out))
    notes = [note for what, places in left_out.items() for note in describe_left_out(what, places)]
    return AnnotatedSet(listed, tuple(classes), tuple(range(1, len(classes) + 1)), images, notes)


def _names(listed: Path, split: str) -> list[str]:
    try:
        text = listed.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise UserError(f"{listed} does not exist: it lists the images of {split}") from None
    except OSError as error:
        raise UserError(f"{listed} cannot be read: {error.strerror or error}") from error
    if "\0" in text:
        raise UserError(f"{listed} is not a list of names in UTF-8 or Latin-1")
    # In the list of a single class a number follows the name.
    names = [line.split()[0] for line in text.split("\n") if line.strip()]
    if not names:
        raise UserError(f"{listed} lists no images")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{listed} lists {len(repeated):,} images more than once, the first is {repeated[0]}")
    return names


def _annotation(path: Path, labels: dict[str, int]) -> _Objects:
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "annotation":
            raise ValueError(f"its root is <{root.tag}>, not <annotation>")
        objects = _Objects(_size(root), [_object(element) for element in root.iterfind("object")])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: it has the objects of an image of the list") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that is not known
        raise UserError(f"{path} cannot be read as VOC's annotation of an image: {error}") from error
    unknown = next((kind for kind, _, _ in objects.found if kind not in labels), None)
    if unknown is not None:
        raise UserError(
            f"{path} has an object of the class {unknown!r}, which is none of {', '.join(labels)}: set data.classes"
        )
    return objects


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Height and width; None where they are absent or 0, as some programs write them."""
    words = [(root.findtext(f"size/{side}") or "0").strip() or "0" for side in ("height", "width")]
    height, width = (int(_number(word, "size")) for word in words)
    if height < 0 or width < 0:
        raise ValueError(f"its size is {width} x {height}")
    return (height, width) if height and width else None


def _object(element: ElementTree.Element) -> tuple[str, list[float], bool]:
    """Class, box, and whether it is difficult. VOC counts pixels from 1, and a box includes its last ones."""
    kind = (element.findtext("name") or "").strip()
    sides = ("xmin", "ymin", "xmax", "ymax")
    left, top, right, bottom = (
        _number((element.findtext(f"bndbox/{side}") or "").strip(), f"{side} of an object {kind!r}") for side in sides
    )
    mark = (element.findtext("difficult") or "").strip()
    if mark not in _MARKS:
        raise ValueError(f"an object {kind!r} has the mark difficult {mark!r}, neither 0 nor 1")
    return kind, [left - 1, top - 1, right, bottom], _MARKS[mark]


def _number(word: str, what: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"the {what} is {word!r}, no number")
    return value


def _image(
    name: str,
    path: Path,
    annotation: Path,
    size: tuple[int, int],
    objects: list[tuple[str, list[float], bool]],
    labels: dict[str, int],
    left_out: dict[str, list[Path]],
) -> AnnotatedImage:
    boxes, keep = clipped(np.array([box for _, box, _ in objects]), *size)
    left_out["boxes without an area"] += [annotation] * int((~keep).sum())
    classes = np.array([labels[kind] for kind, _, _ in objects], dtype=np.int64)
    difficult = np.array([mark for _, _, mark in objects], dtype=bool)
    # Of two alike, VOC's rule would give both detections to the first, and count the other as missed.
    seen: set[tuple] = set()
    for i in sorted(np.flatnonzero(keep), key=lambda i: difficult[i]):
        one = (classes[i], *boxes[i].tolist())
        keep[i] = one not in seen
        left_out["objects that are there twice"] += [annotation] * (one in seen)
        seen.add(one)
    return AnnotatedImage(name, path, *size, boxes[keep], classes[keep], difficult[keep])
