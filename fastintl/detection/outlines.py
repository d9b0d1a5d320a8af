"""Outlines of objects in COCO's formats (polygons, or run lengths), checked and kept as compressed run lengths.

Run lengths count the pixels of a mask column by column, outside and inside in turns, from outside on. Compressed, they
are COCO's text (``maskApi.c`` of pycocotools, ``rleToString``).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from types import ModuleType
from typing import Any

import numpy as np

from loaders.errors import UserError


def checked(outline: Any, height: int, width: int) -> bytes | None:
    """An outline as compressed run lengths; None if there is none, or no pixel inside it.

    Args:
        outline: what an annotation has as its ``segmentation``.
        height, width: of the image.

    Raises:
        ValueError: it is damaged, or of an image of another size; says how.
    """
    if isinstance(outline, dict) and outline.keys() >= {"size", "counts"}:
        mask = _filled(outline, height, width)
    elif isinstance(outline, list) and outline and all(map(_is_polygon, outline)):
        polygons = [_points(polygon, height, width) for polygon in outline]
        coco_masks = require_coco_masks()
        found = coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))
        return found["counts"] if coco_masks.area(found) else None
    else:
        return None
    return require_coco_masks().encode(mask)["counts"] if mask.any() else None


def decode(outlines: Sequence[bytes | str], height: int, width: int) -> np.ndarray:
    """The masks inside n outlines, compressed run lengths: (n, height, width) uint8, 1 inside."""
    if not outlines:
        return np.zeros((0, height, width), np.uint8)
    masks = require_coco_masks().decode([{"size": [height, width], "counts": counts} for counts in outlines])
    return np.ascontiguousarray(masks.transpose(2, 0, 1))


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask (height, width) uint8 as compressed run lengths that JSON can hold."""
    encoded = require_coco_masks().encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def require_coco_masks() -> ModuleType:
    """pycocotools' functions on masks; raises ``UserError`` where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError("COCO's annotations need a package: pip install -c constraints.txt pycocotools") from error
    return mask


def _is_polygon(points: Any) -> bool:
    return isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0


def _points(polygon: list, height: int, width: int) -> list[float]:
    """The corners of a polygon. pycocotools takes memory for every pixel along it, inside the image or not."""
    if not {*map(type, polygon)} <= {int, float}:
        raise ValueError("its outline holds more than numbers")
    farthest = max(height, width)
    # NaN is smaller and larger than nothing, but makes a sum NaN.
    if not (-farthest <= min(polygon) and max(polygon) <= 2 * farthest and isfinite(sum(polygon))):
        raise ValueError(f"its outline lies far outside the image's {width} x {height} pixels")
    return polygon


def _filled(outline: dict, height: int, width: int) -> np.ndarray:
    """The mask of run lengths, (height, width) uint8 in Fortran's order."""
    size, counts = outline["size"], outline["counts"]
    if size != [height, width]:
        turned = ", width and height in the wrong order" if size == [width, height] else ""
        raise ValueError(f"its run lengths are of [height, width] {size}, but its image is [{height}, {width}]{turned}")
    counts = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("its run lengths are not whole numbers of 0 or more")
    if sum(counts) != height * width:
        raise ValueError(f"its run lengths make {sum(counts)} pixels, but its image has {height * width}")
    inside = np.arange(len(counts)) % 2
    return np.repeat(inside.astype(np.uint8), counts).reshape(height, width, order="F")


def _decompressed(text: str) -> list[int]:
    """The run lengths of COCO's text: each in characters of 5 bits, from the third on less the one before the last."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its run lengths are not COCO's text")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its run lengths are cut off")
    return counts
