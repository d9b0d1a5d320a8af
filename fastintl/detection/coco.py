"""Annotated images in COCO's layout: ``annotations/instances_train2017.json`` beside ``train2017/``."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastintl.detection.annotations import (
    AnnotatedImage,
    AnnotatedSet,
    Crowds,
    clipped,
    describe_left_out,
    image_sizes,
    require_images,
    require_size,
)
from fastintl.detection.outlines import checked, require_coco_masks
from loaders.errors import UserError

_LISTED = 5
_HUGE = 1e300  # a number that is not smaller, or NaN, is none
_NO_AREA, _NO_OUTLINE = "boxes without an area", "objects without a usable outline"


class _Damaged(ValueError):
    """What is wrong with a file of annotations, without the file's name."""


def annotation_file(root: Path, split: str) -> Path:
    """The file of a split's annotations."""
    return root / "annotations" / f"instances_{split}.json"


def read_coco(root: Path, split: str, masks: bool, shown: bool = False) -> AnnotatedSet:
    """Reads a split of COCO, and checks all that a training or a test will use of it.

    Args:
        root: folder that holds ``annotations`` and the images' folders.
        split: name of a folder of images, such as ``train2017``.
        masks: whether every object must have an outline.
        shown: whether the progress is shown.

    Raises:
        UserError: a file is missing or damaged, refers to an image or class that it does not list, names two things
            alike, or has a size that is not its image's.
    """
    require_coco_masks()  # or its absence would be noticed in the test only, hours later
    path, folder = annotation_file(root, split), root / split
    content = _content(path)
    try:
        categories = _categories(content)
        entries = _by_id(content, "images", ("file_name", "height", "width"))
        objects = _objects(content, categories, entries)
        files = {number: folder / _file_name(entry) for number, entry in entries.items()}
    except _Damaged as damage:
        raise _refusal(path, damage) from damage
    require_images(path, sorted({file.parent for file in files.values()}), list(files.values()))
    sizes = image_sizes(split, list(files.values()), shown)
    labels = {category: label for label, category in enumerate(categories, 1)}
    left_out: dict[str, list[str]] = {_NO_AREA: [], _NO_OUTLINE: []}
    images = []
    for (number, entry), size in zip(entries.items(), sizes, strict=True):
        try:
            stated = _side(entry, "height"), _side(entry, "width")
            require_size(files[number], size, stated)
            images.append(_image(number, files[number], size, objects[number], labels, masks, left_out))
        except _Damaged as damage:
            raise _refusal(path, damage) from damage
    notes = [note for what, places in left_out.items() for note in describe_left_out(what, places)]
    return AnnotatedSet(path, tuple(categories.values()), tuple(categories), images, notes)


def _refusal(path: Path, damage: _Damaged) -> UserError:
    return UserError(f"{path} is no annotation of objects as COCO has it: {damage}")


def _content(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: COCO's annotations lie there, beside the images' folders") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, no annotation of objects as COCO has it")
    return content


# The three lists of a file


def _list(content: dict[str, Any], name: str, needed: Sequence[str]) -> list[dict]:
    """A list of the file, whose members all have what is needed."""
    if not isinstance(content.get(name), list):
        raise _Damaged(f"it has no list of {name!r}")
    for place, member in enumerate(content[name]):
        if not isinstance(member, dict):
            raise _Damaged(f"number {place} of {name!r} is {_short(member)}")
        missing = [key for key in needed if key not in member]
        if missing:
            raise _Damaged(f"{_called(name, place, member)} has no {missing[0]!r}")
    return content[name]


def _called(name: str, place: int, member: dict) -> str:
    """What a member of a list is called in a sentence: by its id, or else by its place."""
    singular = {"annotations": "annotation", "images": "image", "categories": "category"}[name]
    return f"{singular} {member['id']!r}" if "id" in member else f"number {place} of {name!r}"


def _by_id(content: dict[str, Any], name: str, needed: Sequence[str]) -> dict[int | str, dict]:
    """A list of the file by the members' ids, sorted."""
    members = _list(content, name, ("id", *needed))
    for place, member in enumerate(members):
        _identifier(member["id"], f"the id of number {place} of {name!r}")
    _refuse_repeated(name, [member["id"] for member in members])
    if not members:
        raise _Damaged(f"it lists no {name}")
    return {member["id"]: member for member in sorted(members, key=lambda m: (isinstance(m["id"], str), m["id"]))}


def _categories(content: dict[str, Any]) -> dict[int | str, str]:
    categories = _by_id(content, "categories", ("name",))
    for number, category in categories.items():
        if not isinstance(category["name"], str):
            raise _Damaged(f"category {number!r} has the name {_short(category['name'])}")
    return {number: category["name"] for number, category in categories.items()}


def _objects(content: dict[str, Any], categories: dict, entries: dict) -> dict[int | str, list[tuple[str, dict]]]:
    """The annotations of each image, each with what it is called."""
    found = defaultdict(list)
    members = _list(content, "annotations", ("image_id", "category_id", "bbox"))
    for place, member in enumerate(members):
        called = _called("annotations", place, member)
        if _identifier(member["image_id"], f"the image of {called}") not in entries:
            raise _Damaged(f"{called} has objects in image {member['image_id']!r}, which is not among its images")
        if _identifier(member["category_id"], f"the category of {called}") not in categories:
            raise _Damaged(f"{called} is of category {member['category_id']!r}, which it lacks")
        if "id" in member:
            _identifier(member["id"], f"the id of number {place} of 'annotations'")
        found[member["image_id"]].append((called, member))
    _refuse_repeated("annotations", [member["id"] for member in members if "id" in member])
    return found


def _identifier(value: Any, what: str) -> int | str:
    if type(value) not in (int, str):
        raise _Damaged(f"{what} is {_short(value)}, neither a whole number nor text")
    return value


def _refuse_repeated(name: str, ids: Sequence[int | str]) -> None:
    repeated = [number for number, count in Counter(ids).items() if count > 1]
    if repeated:
        some = ", ".join(map(repr, repeated[:_LISTED])) + (", ..." if len(repeated) > _LISTED else "")
        raise _Damaged(f"several {name} have the same id, {len(repeated):,} ids in all: {some}")


def _file_name(entry: dict) -> str:
    name = entry["file_name"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise _Damaged(f"image {entry['id']!r} has the file name {_short(name)}")
    return name


# One image


def _image(
    number: int | str,
    path: Path,
    size: tuple[int, int],
    objects: list[tuple[str, dict]],
    labels: dict[int | str, int],
    masks: bool,
    left_out: dict[str, list[str]],
) -> AnnotatedImage:
    height, width = size
    crowd = np.array([_is_crowd(called, found) for called, found in objects], dtype=bool)
    corners = [_corners(called, found) for called, found in objects]
    boxes, keep = clipped(np.array(corners), height, width)
    left_out[_NO_AREA] += [path.name] * int((~keep).sum())
    outlines: list[bytes | None] = [None] * len(objects)
    if masks:
        outlines = [_outline(called, found, size) for called, found in objects]
        outlined = np.array([outline is not None for outline in outlines], dtype=bool)
        left_out[_NO_OUTLINE] += [path.name] * int((keep & ~outlined).sum())
        keep &= outlined
    of = np.array([labels[found["category_id"]] for _, found in objects], dtype=np.int64)

    def those(which: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[bytes, ...] | None]:
        return boxes[which], of[which], tuple(outlines[i] for i in np.flatnonzero(which)) if masks else None

    learnt, classes, drawn = those(keep & ~crowd)
    crowds = Crowds(*those(keep & crowd)) if (keep & crowd).any() else None
    return AnnotatedImage(
        number, path, height, width, learnt, classes, np.zeros(len(learnt), dtype=bool), drawn, crowds
    )


def _side(entry: dict, name: str) -> int:
    value = entry[name]
    if type(value) not in (int, float) or value < 1 or value != value // 1:
        raise _Damaged(f"image {entry['id']!r} has the {name} {_short(value)}")
    return int(value)


def _is_crowd(called: str, found: dict) -> bool:
    value = found.get("iscrowd", 0)
    if type(value) not in (int, bool, float) or value not in (0, 1):
        raise _Damaged(f"{called}: its iscrowd is {_short(value)}, neither 0 nor 1")
    return value == 1


def _corners(called: str, found: dict) -> list[float]:
    box = found["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) < _HUGE for v in box)):
        raise _Damaged(f"{called}: its bbox is {_short(box)}, not four numbers")
    left, top, width, height = box
    return [left, top, left + width, top + height]


def _outline(called: str, found: dict, size: tuple[int, int]) -> bytes | None:
    try:
        return checked(found.get("segmentation"), *size)
    except ValueError as error:
        raise _Damaged(f"{called} of image {found['image_id']!r}: {error}") from error


def _short(value: Any) -> str:
    """A value as a sentence shows it."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
