"""Coloured shapes with boxes and masks, in the layouts of VOC and COCO.

python tests/detection_sets.py /tmp/shapes     # /tmp/shapes/voc and /tmp/shapes/coco
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle")
SIDE = 96
_COLOURS = np.array([(220, 60, 50), (60, 90, 220), (60, 190, 90)])


def draw(seed: int, side: int = SIDE) -> tuple[np.ndarray, list[tuple[int, list[float], np.ndarray]]]:
    """An image (side, side, 3) of one to three shapes that do not touch on a noisy grey, and what they are:
    the class, the outline as a polygon, and the mask (side, side)."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(rng.uniform(90, 170), 12, (side, side, 1)) + np.zeros(3)
    shapes: list[tuple[int, list[float], np.ndarray]] = []
    taken = np.zeros((side, side), bool)
    wanted = rng.integers(1, 4)
    for _ in range(20):
        if len(shapes) == wanted:
            break
        kind, size = int(rng.integers(3)), rng.uniform(0.18, 0.42) * side
        x, y = rng.uniform(size / 2 + 1, side - size / 2 - 1, 2)
        outline = [float(v) for corner in _corners(kind) for v in (x + corner[0] * size / 2, y + corner[1] * size / 2)]
        mask = _fill(outline, side)
        if (mask & taken).any():
            continue
        taken |= _fill([x - size / 2 - 3, y - size / 2 - 3, x + size / 2 + 3, y - size / 2 - 3,
                        x + size / 2 + 3, y + size / 2 + 3, x - size / 2 - 3, y + size / 2 + 3], side)  # fmt: skip
        colour = _COLOURS[kind] + rng.normal(0, 20, 3)
        pixels[mask] = colour + rng.normal(0, 8, (mask.sum(), 3))
        shapes.append((kind, outline, mask))
    return pixels.clip(0, 255).astype(np.uint8), shapes


def _corners(kind: int) -> list[tuple[float, float]]:
    if kind == 0:
        return [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 24, endpoint=False)]
    return [(-1, -1), (1, -1), (1, 1), (-1, 1)] if kind == 1 else [(0, -1), (1, 1), (-1, 1)]


def _fill(outline: list[float], side: int) -> np.ndarray:
    image = Image.new("1", (side, side))
    ImageDraw.Draw(image).polygon(outline, fill=1)
    return np.array(image)


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a mask; the last two are one past its last pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def write_voc(root: Path, train: int, test: int, side: int = SIDE) -> Path:
    """``VOC2007`` with the lists ``trainval`` and ``test``."""
    home = root / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for split, first, count in (("trainval", 0, train), ("test", 100_000, test)):
        names = [f"{i:06}" for i in range(first, first + count)]
        for i, name in enumerate(names, first):
            pixels, shapes = draw(i, side)
            Image.fromarray(pixels).save(home / "JPEGImages" / f"{name}.jpg", quality=95)
            objects = [(CLASSES[kind], box(mask)) for kind, _, mask in shapes]
            (home / "Annotations" / f"{name}.xml").write_text(voc_xml(side, side, objects))
        (home / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def voc_xml(height: int, width: int, objects: list, difficult: bool = False) -> str:
    """An annotation of objects (class, box as ``box`` gives it); VOC counts pixels from 1."""
    elements = [
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom) in objects
    ]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(elements)}</annotation>"


def write_coco(root: Path, train: int, test: int, side: int = SIDE) -> Path:
    """``train2017``, ``val2017`` and their ``annotations``; the categories' numbers have gaps, as COCO's."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, first, count in (("train2017", 0, train), ("val2017", 100_000, test)):
        (root / split).mkdir(exist_ok=True)
        content: dict = {"categories": [{"id": 2 * i + 1, "name": name} for i, name in enumerate(CLASSES)]}
        content |= {"images": [], "annotations": []}
        for i in range(first, first + count):
            pixels, shapes = draw(i, side)
            name = f"{i:012}.jpg"
            Image.fromarray(pixels).save(root / split / name, quality=95)
            content["images"].append({"id": i, "file_name": name, "height": side, "width": side})
            for kind, outline, mask in shapes:
                left, top, right, bottom = box(mask)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": i,
                        "category_id": 2 * kind + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": [outline],
                    }
                )
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


if __name__ == "__main__":
    for write, name in ((write_voc, "voc"), (write_coco, "coco")):
        print(write(Path(sys.argv[1]) / name, train=400, test=100))
