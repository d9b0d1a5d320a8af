"""AP of stored detections equals the reference: pycocotools' own command for COCO, plain loops for VOC 2007."""

import contextlib
import io
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fastintl.detection.average_precision import coco_metrics, voc_metrics
from fastintl.detection.coco import annotation_file, read_coco
from fastintl.detection.outlines import encode
from fastintl.detection.voc import read_voc
from tests.detection_sets import CLASSES, voc_xml, write_coco, write_voc


def noisy_detections(annotated, masks: bool = False) -> list[dict]:
    """Objects moved a little, some twice, some of the wrong class, some left out, and some that are nothing."""
    rng = np.random.default_rng(0)
    found = []
    for image in annotated.images:
        objects = list(zip(image.boxes, image.labels, strict=True))
        outlines = image.masks() if masks else [None] * len(objects)
        for (box, label), outline in zip(objects, outlines, strict=True):
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                left, top, right, bottom = (box + rng.normal(0, 1.5, 4)).tolist()
                wrong = rng.random() < 0.15
                category = annotated.category_ids[int(rng.integers(3)) if wrong else label - 1]
                moved = {"bbox": [left, top, right - left, bottom - top], "category_id": category}
                if masks:
                    moved["segmentation"] = encode(np.roll(outline, int(rng.integers(-3, 4)), axis=1))
                found.append({"image_id": image.id, "score": round(float(rng.random()), 3), **moved})
    return json.loads(json.dumps(found))  # as they come back from a file


def test_cocos_ap_is_that_of_its_own_evaluator(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    root = write_coco(tmp_path, 1, 30)
    path = annotation_file(root, "val2017")
    content = json.loads(path.read_text())
    crowd = content["annotations"][4]
    crowd |= {"iscrowd": 1, "segmentation": {"size": [96, 96], "counts": [0, 96 * 96]}, "bbox": [0, 0, 96, 96]}
    path.write_text(json.dumps(content))
    annotated = read_coco(root, "val2017", masks=True)
    detections = noisy_detections(annotated, masks=True)
    found = coco_metrics(annotated, detections, masks=True)
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        results = tmp_path / f"{kind}.json"
        # The form in which each of the two is submitted to COCO's own server.
        left_out = "segmentation" if kind == "box" else "bbox"
        results.write_text(json.dumps([{k: v for k, v in d.items() if k != left_out} for d in detections]))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(path))
            evaluation = COCOeval(truth, truth.loadRes(str(results)), name)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        expected = evaluation.stats[:3]
        assert 0.1 < expected[0] < expected[1] < 1
        assert [found[f"{kind} {number}"] for number in ("AP", "AP50", "AP75")] == pytest.approx(expected)
    assert coco_metrics(annotated, [], masks=False) == {"box AP": 0, "box AP50": 0, "box AP75": 0}


def reference_voc_ap(root: Path, detections: list[dict], overlap: float) -> float:
    """VOC's rule from the annotation files, object by object, in fractions."""
    from xml.etree import ElementTree

    names = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    averages = []
    for number, name in enumerate(CLASSES, 1):
        objects = []
        for image in names:
            for element in ElementTree.parse(root / "VOC2007/Annotations" / f"{image}.xml").iter("object"):
                if element.findtext("name") == name:
                    box = [int(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
                    objects.append({"image": image, "box": box, "difficult": element.findtext("difficult") == "1"})
        count = sum(not found["difficult"] for found in objects)
        if not count:
            continue
        right = wrong = 0
        curve = []
        mine = [d for d in detections if d["category_id"] == number]
        for detection in sorted(mine, key=lambda d: -d["score"]):
            best, best_object = -1.0, None
            for candidate in objects:
                if candidate["image"] == detection["image_id"]:
                    value = inclusive_overlap(candidate["box"], detection["bbox"])
                    if value > best:
                        best, best_object = value, candidate
            if best > overlap and best_object["difficult"]:
                continue
            if best > overlap and not best_object.get("taken"):
                best_object["taken"] = True
                right += 1
            else:
                wrong += 1
            curve.append((Fraction(right, count), Fraction(right, right + wrong)))
        levels = [max((p for r, p in curve if r >= Fraction(k, 10)), default=Fraction(0)) for k in range(11)]
        averages.append(sum(levels) / 11)
    return float(sum(averages) / len(averages))


def inclusive_overlap(box: list[int], bbox: list[float]) -> float:
    """In VOC's pixels, which count from 1 and of which a box holds the last: sides are differences plus one."""
    left, top, right, bottom = bbox[0] + 1, bbox[1] + 1, bbox[0] + bbox[2], bbox[1] + bbox[3]
    width = min(box[2], right) - max(box[0], left) + 1
    height = min(box[3], bottom) - max(box[1], top) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (right - left + 1) * (bottom - top + 1)
    return width * height / (areas - width * height)


def test_vocs_ap_is_that_of_its_rule_written_as_loops(tmp_path):
    root = write_voc(tmp_path, 1, 40)
    names = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    for name in names[::5]:  # difficult objects
        path = root / "VOC2007/Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    (root / f"VOC2007/Annotations/{names[1]}.xml").write_text(voc_xml(96, 96, []))
    annotated = read_voc(root, "VOC2007/test", CLASSES)
    assert 5 < sum(image.difficult.sum() for image in annotated.images) < 12
    detections = noisy_detections(annotated)
    detections.append({"image_id": names[1], "category_id": 1, "bbox": [1, 2, 30, 30], "score": 0.9})
    found = voc_metrics(annotated, detections)
    expected = {percent: reference_voc_ap(root, detections, percent / 100) for percent in range(50, 100, 5)}
    assert 0.1 < expected[75] < expected[50] < 1
    assert found["box AP50"] == pytest.approx(expected[50]) and found["box AP75"] == pytest.approx(expected[75])
    assert found["box AP"] == pytest.approx(np.mean(list(expected.values())))
    assert voc_metrics(annotated, []) == {"box AP": 0, "box AP50": 0, "box AP75": 0}


def test_a_class_that_nothing_is_of_does_not_count(tmp_path):
    root = write_voc(tmp_path, 1, 10)
    annotated = read_voc(root, "VOC2007/test", CLASSES)
    with_another = read_voc(root, "VOC2007/test", (*CLASSES, "ring"))
    detections = noisy_detections(annotated)
    surplus = {"image_id": annotated.images[0].id, "category_id": 4, "bbox": [1, 2, 30, 30], "score": 0.9}
    assert voc_metrics(annotated, detections) == voc_metrics(with_another, [*detections, surplus])
