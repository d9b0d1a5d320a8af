"""Detections drawn on their images: what the picture shows at a pixel is worked out by hand."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from fastintl.detection import drawing
from fastintl.detection.annotations import AnnotatedImage, AnnotatedSet


def test_masks_that_overlap_are_in_the_colour_of_the_surer_one(tmp_path):
    pytest.importorskip("pycocotools")
    from fastintl.detection.outlines import encode

    Image.new("RGB", (320, 320), (200, 200, 200)).save(tmp_path / "a.png")
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    image = AnnotatedImage("a", tmp_path / "a.png", 320, 320, *none)
    annotated = AnnotatedSet(tmp_path, ("cat", "dog"), (1, 2), [image])
    found = []
    for category, left, score in ((1, 40, 0.9), (2, 100, 0.6)):
        mask = np.zeros((320, 320), np.uint8)
        mask[100:220, left : left + 120] = 1
        box = [left, 100, 120, 120]
        found.append(
            {"image_id": "a", "category_id": category, "bbox": box, "score": score, "segmentation": encode(mask)}
        )
    drawing.draw_detections(annotated, found, tmp_path / "found.png")
    pixels = np.asarray(Image.open(tmp_path / "found.png").convert("RGB")).astype(int)
    cat, dog = (np.array(ImageColor.getrgb(colour)) for colour in drawing._COLOURS[:2])
    gap = 6  # around each tile
    for x, colour in ((60, cat), (130, cat), (200, dog)):  # in the first alone, in both, in the second alone
        assert abs(pixels[gap + 180, gap + x] - (200 + colour) / 2).max() <= 1
    assert (pixels[gap + 280, gap + 280] == 200).all()
