"""Average precision by the rule of the dataset: VOC 2007's, and COCO's by its own evaluator.

VOC: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2: a detection is right
if it overlaps an object of its class that no detection of higher score has taken; difficult objects are ignored; the
average is over the best precision at recall 0, 0.1, .. 1 or more. MoCo's tables average it over the overlaps of COCO.

Shapes: n objects and m detections of an image.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastintl.detection.annotations import AnnotatedImage, AnnotatedSet
from fastintl.detection.config import DetectionConfig
from fastintl.detection.inference import Detection

OVERLAPS = tuple(percent / 100 for percent in range(50, 100, 5))
_KINDS = {"box": "bbox", "mask": "segm"}
_NUMBERS = ("AP", "AP50", "AP75")
_DETECTIONS = 100  # of a class in an image, those of the highest scores: COCO's rule


def measure(config: DetectionConfig, annotated: AnnotatedSet, detections: Sequence[Detection]) -> dict[str, float]:
    """AP, AP50 and AP75 as fractions, of boxes and of masks where there are some."""
    if config.data.layout == "voc":
        return voc_metrics(annotated, detections)
    return coco_metrics(annotated, detections, config.model.masks)


# COCO


def coco_metrics(annotated: AnnotatedSet, detections: Sequence[Detection], masks: bool) -> dict[str, float]:
    """``box AP`` (mean over the overlaps .5, .55, .. .95), ``box AP50``, ``box AP75``, and the same of ``mask``.

    pycocotools gets the objects that were read and checked, not the file that they were read from.

    Args:
        masks: whether the detections have masks, which are measured, too.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kinds = ("box", "mask") if masks else ("box",)
    if not detections:  # which pycocotools cannot load
        return {f"{kind} {number}": 0.0 for kind in kinds for number in _NUMBERS}
    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = COCO()
        truth.dataset = _as_coco(annotated)
        truth.createIndex()
        numbers = {image.id: number for number, image in enumerate(annotated.images, 1)}
        labels = {category: label for label, category in enumerate(annotated.category_ids, 1)}
        for kind in kinds:
            # Copies, for pycocotools writes areas into them, the boxes' where there are boxes.
            results = [
                {k: v for k, v in d.items() if not (kind == "mask" and k == "bbox")}
                | {"image_id": numbers[d["image_id"]], "category_id": labels[d["category_id"]]}
                for d in detections
            ]
            evaluation = COCOeval(truth, truth.loadRes(results), _KINDS[kind])
            evaluation.params.maxDets = [max(_DETECTIONS, _most_objects(annotated))]
            evaluation.evaluate()
            evaluation.accumulate()
            metrics |= _means(kind, evaluation.eval["precision"])
    return metrics


def _as_coco(annotated: AnnotatedSet) -> dict[str, Any]:
    """The set as the content of a file of COCO's, under ids of our own, numbers from 1 on: pycocotools takes an
    annotation's id 0 for no annotation, and sorts the images' and the categories' ids."""
    images, annotations = [], []
    for number, image in enumerate(annotated.images, 1):
        images.append({"id": number, "height": image.height, "width": image.width})
        for objects, iscrowd in ((image, 0), (image.crowds, 1)):
            for i in range(0 if objects is None else len(objects.boxes)):
                left, top, right, bottom = objects.boxes[i].tolist()
                box = [left, top, right - left, bottom - top]
                found = {"id": len(annotations) + 1, "image_id": number, "iscrowd": iscrowd, "bbox": box}
                found["category_id"] = int(objects.labels[i])
                found["area"] = box[2] * box[3]  # by which small objects are told from large ones, not done here
                if objects.outlines is not None:
                    size = [image.height, image.width]
                    found["segmentation"] = {"size": size, "counts": objects.outlines[i]}
                annotations.append(found)
    categories = [{"id": label} for label in range(1, len(annotated.category_ids) + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _most_objects(annotated: AnnotatedSet) -> int:
    """The most objects of a class in an image."""
    return max(int(np.bincount(image.labels, minlength=1).max()) for image in annotated.images)


def _means(kind: str, precision: np.ndarray) -> dict[str, float]:
    """The averages of pycocotools' table: overlaps, recalls, classes, sizes (all of them first), detections an image.

    -1 stands for a class without objects.
    """
    by_overlap = [of_overlap[of_overlap > -1] for of_overlap in precision[:, :, :, 0, -1]]
    places = {"AP": range(len(OVERLAPS)), "AP50": [OVERLAPS.index(0.5)], "AP75": [OVERLAPS.index(0.75)]}
    return {f"{kind} {name}": float(np.mean([by_overlap[i] for i in places[name]])) for name in _NUMBERS}


# PASCAL VOC


def voc_metrics(annotated: AnnotatedSet, detections: Sequence[Detection]) -> dict[str, float]:
    """``box AP`` (mean over ``OVERLAPS``), ``box AP50`` and ``box AP75``: means over the classes that have objects."""
    by_class = defaultdict(list)
    for detection in detections:
        by_class[detection["category_id"]].append(detection)
    per_class = [_class_ap(annotated, category, by_class[category]) for category in annotated.category_ids]
    means = np.mean([values for values in per_class if values is not None], axis=0)
    return {
        "box AP": float(means.mean()),
        "box AP50": float(means[OVERLAPS.index(0.5)]),
        "box AP75": float(means[OVERLAPS.index(0.75)]),
    }


def _class_ap(annotated: AnnotatedSet, category: int, detections: list[Detection]) -> list[float] | None:
    """The AP of a class at each overlap; None for a class without objects that count."""
    label = annotated.category_ids.index(category) + 1
    objects = {image.id: _Objects(image, label) for image in annotated.images}
    count = sum(int((~found.difficult).sum()) for found in objects.values())
    if count == 0:
        return None
    order = np.argsort([-detection["score"] for detection in detections], kind="stable")
    matches = [objects[detections[i]["image_id"]].best(detections[i]["bbox"]) for i in order]
    return [eleven_point_ap(_verdicts(matches, overlap), count) for overlap in OVERLAPS]


class _Objects:
    """The objects of a class in an image."""

    def __init__(self, image: AnnotatedImage, label: int) -> None:
        mine = image.labels == label
        self.image, self.boxes = image.id, image.boxes[mine].astype(np.float64)
        self.difficult = image.difficult[mine]

    def best(self, bbox: Sequence[float]) -> tuple[tuple, float, bool] | None:
        """The object that a detection overlaps most (its name, the overlap, whether it is difficult); None if none."""
        if not len(self.boxes):
            return None
        overlaps = _overlaps(self.boxes, np.array([*bbox[:2], bbox[0] + bbox[2], bbox[1] + bbox[3]]))
        i = int(overlaps.argmax())
        return (self.image, i), float(overlaps[i]), bool(self.difficult[i])


def _overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The intersection over union of boxes (n, 4) and a box (4,), (n,)."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = sides.clip(min=0).prod(axis=1)
    return common / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - common)


def _verdicts(matches: list, overlap: float) -> np.ndarray:
    """Whether the detections are right, highest score first; those of difficult objects are left out."""
    taken, verdicts = set(), []
    for match in matches:
        if match is None or match[1] <= overlap:
            verdicts.append(False)
        elif not match[2]:
            verdicts.append(match[0] not in taken)
            taken.add(match[0])
    return np.array(verdicts, dtype=bool)


def eleven_point_ap(right: np.ndarray, count: int) -> float:
    """VOC 2007's average precision.

    Args:
        right: (m,) bool, highest score first.
        count: objects to be found.
    """
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    # In whole numbers: 0.3 is more than 3 / 10 in floating point.
    return float(np.mean([precision[10 * found >= tenths * count].max(initial=0.0) for tenths in range(11)]))
