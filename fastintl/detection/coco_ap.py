"""Average precision as COCO defines it, by its own evaluator."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from fastintl.detection import outlines  # noqa: F401  says which package is missing
from fastintl.detection.inference import Detection

_KINDS = {"box": "bbox", "mask": "segm"}
_NUMBERS = {"AP": 0, "AP50": 1, "AP75": 2}  # places in pycocotools' list of results


def coco_metrics(annotations: Path, detections: Sequence[Detection], masks: bool) -> dict[str, float]:
    """``box AP`` (mean over the overlaps .5, .55, .. .95), ``box AP50``, ``box AP75``, and the same of ``mask``.

    Args:
        annotations: COCO's file of the split.
        masks: whether the detections have masks to be measured.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kinds = ("box", "mask") if masks else ("box",)
    if not detections:  # which pycocotools cannot load
        return {f"{kind} {number}": 0.0 for kind in kinds for number in _NUMBERS}
    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = COCO(str(annotations))
        for kind in kinds:
            # of copies: it writes areas into them, the boxes' where there are boxes
            results = [{k: v for k, v in d.items() if not (kind == "mask" and k == "bbox")} for d in detections]
            evaluation = COCOeval(truth, truth.loadRes(results), _KINDS[kind])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            metrics |= {f"{kind} {number}": float(evaluation.stats[place]) for number, place in _NUMBERS.items()}
    return metrics
