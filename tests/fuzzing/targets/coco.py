"""Sets in COCO's layout, sound ones and such with oddities: refused with a sentence, or perfect detections score 100 %.

On sound ones pycocotools, reading the file itself, gives the same AP of inexact detections.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from fastintl.detection.average_precision import OVERLAPS, coco_metrics
from fastintl.detection.coco import annotation_file, read_coco
from tests.fuzzing import refusals
from tests.fuzzing.annotated import check_objects, perfect, write_grey

_SIDES = st.integers(1, 40)
_FORMS = st.sampled_from(["polygon", "triangle", "counts", "text", "two"])
_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 130), st.sampled_from([10**30, 10**400, 1e300, 1e12, 0.5, "", "1", "x"]),
    st.floats(), st.text(max_size=3), st.lists(st.integers(-50, 90), max_size=7),
    st.lists(st.lists(st.one_of(st.integers(-50, 90), st.floats(), st.none()), max_size=9), max_size=2),
    st.fixed_dictionaries({"size": st.lists(st.integers(0, 40), min_size=2, max_size=2),
                           "counts": st.one_of(st.text(max_size=6), st.lists(st.integers(-1, 900), max_size=4))}),
    st.just({}),
)  # fmt: skip
_KEYS = st.sampled_from(
    ["id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "height", "width", "file_name", "name"]
)
_LISTS = st.sampled_from(["images", "annotations", "annotations", "annotations", "categories"])
# (list, member, key, what becomes of it)
_oddity = st.one_of(
    st.tuples(_LISTS, st.integers(0, 9), _KEYS, st.one_of(st.just("absent"), st.just("swapped"), _ODD)),
    st.tuples(_LISTS, st.integers(0, 9), st.just("all of it"), st.one_of(st.just("absent"), st.just("twice"), _ODD)),
    st.tuples(_LISTS, st.integers(0, 9), st.just("id"), st.just("renumbered")),
)
_object = st.tuples(*[st.floats(0, 1)] * 4, st.integers(0, 2), _FORMS, st.booleans())
_image = st.tuples(_SIDES, _SIDES, st.lists(_object, max_size=5))
examples = st.tuples(st.lists(_image, min_size=1, max_size=3), st.booleans(), st.lists(_oddity, max_size=3))


def check(example: tuple[list, bool, list]) -> None:
    drawn, masks, oddities = example
    content = sound(drawn)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "annotations").mkdir()
        for entry in content["images"]:
            write_grey(root / "val2017" / entry["file_name"], entry["height"], entry["width"])
        path = annotation_file(root, "val2017")
        path.write_text(json.dumps(with_oddities(content, oddities)))
        with refusals() as said:
            annotated = read_coco(root, "val2017", masks)
            check_objects(annotated, masks)
            detections = perfect(annotated, masks)
            if detections:
                metrics = coco_metrics(annotated, detections, masks)
                assert all(value == pytest.approx(1, abs=1e-9) for value in metrics.values()), metrics
            if detections and not oddities:
                compare(path, annotated, masks)
        assert oddities or not said, said


def compare(path: Path, annotated, masks: bool) -> None:
    """Our AP of inexact detections equals pycocotools' own on the file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detections = perfect(annotated, masks, moved=2)
    found = coco_metrics(annotated, detections, masks)
    for kind, name in (("box", "bbox"), ("mask", "segm"))[: 1 + masks]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(path))
            left_out = "bbox" if kind == "mask" else "segmentation"
            mine = [{k: copy.copy(v) for k, v in d.items() if k != left_out} for d in detections]
            evaluation = COCOeval(truth, truth.loadRes(mine), name)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert [found[f"{kind} {number}"] for number in ("AP", "AP50", "AP75")] == pytest.approx(evaluation.stats[:3])
        assert len(OVERLAPS) == len(evaluation.params.iouThrs)


def sound(drawn: list) -> dict[str, list[dict[str, Any]]]:
    """The content of a file of annotations in which nothing is odd."""
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 2 * i + 1, "name": f"class {i}"} for i in range(3)]
    for number, (height, width, objects) in enumerate(drawn, 1):
        entry = {"id": number, "file_name": f"{number:03}.jpg", "height": height, "width": width}
        content["images"].append(entry)
        for x, y, w, h, kind, form, crowd in objects:
            left, top = int(x * (width - 1)), int(y * (height - 1))
            right, bottom = left + 1 + int(w * (width - left - 1)), top + 1 + int(h * (height - top - 1))
            outline, area = _outline(form, left, top, right, bottom, height, width)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 2 * kind + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": int(crowd and form in ("counts", "text")),
                    "segmentation": outline,
                }
            )
    return content


def _outline(form: str, left: int, top: int, right: int, bottom: int, height: int, width: int) -> tuple[Any, int]:
    square = [left, top, right, top, right, bottom, left, bottom]
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    if form == "triangle":
        return [[left, top, right, top, right, bottom, left, bottom, left, top]], int(mask.sum())
    if form in ("polygon", "two"):
        return [square] * (1 + (form == "two")), int(mask.sum())
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    counts = [0, *counts] if flat[0] else counts
    if form == "counts":
        return {"size": [height, width], "counts": counts}, int(mask.sum())
    from pycocotools import mask as coco_masks

    text = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    return {"size": [height, width], "counts": text}, int(mask.sum())


def with_oddities(content: dict, oddities: list) -> dict:
    """The content with some members changed."""
    for name, place, key, value in oddities:
        members = content[name]
        if not isinstance(members, list) or not members:
            continue
        place %= len(members)
        if value == "renumbered":
            for number, member in enumerate(members):
                if isinstance(member, dict):
                    member["id"] = f"n{number}" if place % 2 else number - 1
        elif key == "all of it" and value == "twice":
            members.append(members[place])
        elif key == "all of it" and value == "absent":
            del members[place]
        elif key == "all of it":
            members[place] = value
        elif not isinstance(members[place], dict):
            continue
        elif value == "absent":
            members[place].pop(key, None)
        elif value == "swapped":
            old = members[place].get(key)
            if isinstance(old, dict) and isinstance(old.get("size"), list):
                members[place][key] = {**old, "size": old["size"][::-1]}
            elif isinstance(old, list):
                members[place][key] = old[::-1]
        else:
            members[place][key] = value
    return content
