"""Outlines of objects in COCO's formats, by pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np

from loaders.errors import UserError

try:
    from pycocotools import mask as coco_masks
except ImportError as error:
    raise UserError("COCO's annotations need a package: pip install -c constraints.txt pycocotools") from error


def usable(outline: Any) -> bool:
    """Whether a mask can be made of it: run lengths, or polygons of three corners or more."""
    if isinstance(outline, dict):
        return "counts" in outline and "size" in outline
    return bool(outline) and isinstance(outline, list) and all(map(_is_polygon, outline))


def decode(outline: Any, height: int, width: int) -> np.ndarray:
    """(height, width) uint8, 1 inside."""
    if isinstance(outline, list):
        return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(outline, height, width)))
    if isinstance(outline["counts"], list):
        outline = coco_masks.frPyObjects(outline, height, width)
    return coco_masks.decode(outline)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """(height, width) uint8 as compressed run lengths that JSON can hold."""
    encoded = coco_masks.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _is_polygon(points: Any) -> bool:
    return isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
