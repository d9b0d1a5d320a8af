"""A picture of detections, for the eye."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from fastintl.detection.annotations import AnnotatedSet, Picture
from fastintl.detection.augment import fitted, read_pixels
from fastintl.detection.inference import Detection
from loaders.errors import UserError

_COLUMNS, _ROWS, _SIDE = 4, 3, 320
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324")


def draw_detections(
    annotated: AnnotatedSet, detections: Sequence[Detection], path: Path, threshold: float = 0.5
) -> None:
    """Draws the first pictures of a set with their surer detections, a colour a class, and writes them as one.

    Raises:
        UserError: the file cannot be written.
    """
    found = defaultdict(list)
    for detection in detections:
        if detection["score"] >= threshold:
            found[detection["image_id"]].append(detection)
    tiles = [_tile(picture, found[picture.id], annotated) for picture in annotated.pictures[: _COLUMNS * _ROWS]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(make_grid(tiles, nrow=_COLUMNS, padding=6, pad_value=255)).save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error


def _tile(picture: Picture, detections: Sequence[Detection], annotated: AnnotatedSet) -> Tensor:
    """(3, side, side) uint8."""
    size = fitted(picture.height, picture.width, _SIDE, _SIDE)
    pixels = _resized(read_pixels(picture), size)
    if detections:
        classes = [annotated.category_ids.index(d["category_id"]) for d in detections]
        colours = [_COLOURS[i % len(_COLOURS)] for i in classes]
        if "segmentation" in detections[0]:
            pixels = draw_segmentation_masks(pixels, _masks(picture, detections, size), alpha=0.5, colors=colours)
        scale = torch.tensor([size[1] / picture.width, size[0] / picture.height]).repeat(2)
        boxes = torch.tensor([d["bbox"] for d in detections])
        boxes[:, 2:] += boxes[:, :2]
        labels = [f"{annotated.classes[i]} {d['score']:.0%}" for i, d in zip(classes, detections, strict=True)]
        pixels = draw_bounding_boxes(pixels, boxes * scale, labels, colours, width=2, label_colors=colours)
    height, width = pixels.shape[1:]
    return F.pad(pixels, (0, _SIDE - width, 0, _SIDE - height), value=255)


def _masks(picture: Picture, detections: Sequence[Detection], size: tuple[int, int]) -> Tensor:
    from fastintl.detection.outlines import decode  # needs pycocotools

    masks = [torch.from_numpy(decode(d["segmentation"], picture.height, picture.width)) for d in detections]
    return _resized(torch.stack(masks) * 255, size) > 127


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
