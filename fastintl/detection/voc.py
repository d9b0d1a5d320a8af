"""PASCAL VOC in its public layout: ``VOC2007/{Annotations,ImageSets/Main,JPEGImages}``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from fastintl.detection.annotations import AnnotatedImage, AnnotatedSet, clipped, describe_left_out, require_images
from loaders.errors import UserError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read_voc(root: Path, split: str, classes: Sequence[str] = CLASSES) -> AnnotatedSet:
    """Reads a split.

    Args:
        root: folder of ``VOC2007`` and the like, or of their ``VOCdevkit``.
        split: year and list, ``VOC2007/trainval``.
        classes: names, in the order of the labels.

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
    # A line of a class's own list goes on with a number.
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    if not names:
        raise UserError(f"{listed} lists no images")
    degenerate: list[Path] = []
    labels = {name: label for label, name in enumerate(classes, 1)}
    images = [_read_image(home, name, labels, degenerate) for name in names]
    notes = describe_left_out("boxes without an area", degenerate)
    annotated = AnnotatedSet(listed, tuple(classes), tuple(range(1, len(classes) + 1)), images, notes)
    require_images(annotated, [home / "JPEGImages"])
    return annotated


def _read_image(home: Path, name: str, labels: dict[str, int], degenerate: list[Path]) -> AnnotatedImage:
    path = home / "Annotations" / f"{name}.xml"
    try:
        tree = ElementTree.parse(path)
        height, width = (int(tree.findtext(f"size/{side}", "")) for side in ("height", "width"))
        objects = [_read_object(element) for element in tree.iterfind("object")]
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


def _read_object(element: ElementTree.Element) -> tuple[str, list[float], bool]:
    """Class, box, and whether it is difficult. VOC counts pixels from 1, and a box holds its last ones."""
    left, top, right, bottom = (
        float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = element.findtext("difficult", "0").strip() == "1"
    return element.findtext("name", "").strip(), [left - 1, top - 1, right, bottom], difficult
