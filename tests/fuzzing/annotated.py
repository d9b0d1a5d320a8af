"""What the targets on annotated images share: small images on disk, and detections that are perfect or nearly so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastintl.detection.annotations import AnnotatedSet
from fastintl.detection.inference import Detection
from fastintl.detection.outlines import encode


def write_grey(path: Path, height: int, width: int) -> None:
    """An image without a content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"P5 %d %d 255\n" % (width, height) + bytes(height * width))


def perfect(annotated: AnnotatedSet, masks: bool, moved: float = 0.0) -> list[Detection]:
    """A detection for each object, exactly where it is, or up to ``moved`` pixels from there."""
    rng, found = np.random.default_rng(0), []
    for image in annotated.images:
        drawn = image.masks() if masks else [None] * len(image.boxes)
        for box, label, mask in zip(image.boxes, image.labels, drawn, strict=True):
            left, top, right, bottom = box.tolist()
            x, y = rng.uniform(-moved, moved, 2)
            detection: dict[str, Any] = {
                "image_id": image.id,
                "category_id": annotated.category_ids[label - 1],
                "bbox": [left + x, top + y, right - left, bottom - top],
                "score": float(rng.random()),
            }
            if masks:
                detection["segmentation"] = encode(np.roll(mask, round(x), axis=1))
            found.append(detection)
    return found


def check_objects(annotated: AnnotatedSet, masks: bool) -> None:
    """What a training takes for granted."""
    for image in annotated.images:
        count = len(image.boxes)
        assert image.boxes.shape == (count, 4) and len(image.labels) == len(image.difficult) == count
        assert np.isfinite(image.boxes).all() and (image.boxes[:, 2:] > image.boxes[:, :2]).all()
        assert (image.boxes >= 0).all() and (image.boxes <= [image.width, image.height] * 2).all()
        assert all(1 <= label <= len(annotated.classes) for label in image.labels)
        if masks:
            drawn = image.masks()
            assert drawn.shape == (count, image.height, image.width) and drawn.any((1, 2)).all()
