"""Detections drawn on their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import ImageColor, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from fastintl.detection.annotations import AnnotatedImage, AnnotatedSet
from fastintl.detection.augment import fitted, read_pixels
from fastintl.detection.inference import Detection
from fastintl.detection.outlines import decode
from loaders.errors import UserError, writing

_COLUMNS, _ROWS, _SIDE, _FONT_SIZE = 4, 3, 320, 15
_LEAST_SCORE = 0.5
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324")


def draw_detections(annotated: AnnotatedSet, detections: Sequence[Detection], path: Path) -> None:
    """Writes one image of the first images of a set with their detections above a score, a colour a class.

    Raises:
        UserError: the file cannot be written.
    """
    found = defaultdict(list)
    for detection in detections:
        if detection["score"] >= _LEAST_SCORE:
            found[detection["image_id"]].append(detection)
    tiles = [_tile(image, found[image.id], annotated) for image in annotated.images[: _COLUMNS * _ROWS]]
    with writing(path):
        try:
            to_pil_image(make_grid(tiles, nrow=_COLUMNS, padding=6, pad_value=255)).save(path)
        except ValueError as error:  # a suffix that Pillow does not know
            raise UserError(f"{path} cannot be written: {error}") from error


def _tile(image: AnnotatedImage, detections: Sequence[Detection], annotated: AnnotatedSet) -> Tensor:
    """An image with its detections, (3, side, side) uint8."""
    size = fitted(image.height, image.width, _SIDE, _SIDE)
    pixels = _resized(read_pixels(image), size)
    classes = [annotated.category_ids.index(d["category_id"]) for d in detections]
    colours = [_COLOURS[i % len(_COLOURS)] for i in classes]
    if detections and "segmentation" in detections[0]:
        pixels = _painted(pixels, _masks(image, detections, size), detections, colours)
    canvas = to_pil_image(pixels)
    for detection, i, colour in zip(detections, classes, colours, strict=True):
        left, top, width, height = (side * size[1] / image.width for side in detection["bbox"])
        label = f"{annotated.classes[i]} {detection['score']:.0%}"
        _draw_box(ImageDraw.Draw(canvas), (left, top, left + width, top + height), label, colour)
    return F.pad(pil_to_tensor(canvas), (0, _SIDE - size[1], 0, _SIDE - size[0]), value=255)


def _painted(pixels: Tensor, masks: Tensor, detections: Sequence[Detection], colours: Sequence[str]) -> Tensor:
    """Pixels (3, H, W) uint8 with masks (n, H, W) half in their colours; where two lie, that of the higher score.

    torchvision's ``draw_segmentation_masks`` is black there, and of one object there are often two.
    """
    paint = pixels.clone()
    for i in sorted(range(len(masks)), key=lambda i: detections[i]["score"]):
        paint[:, masks[i]] = torch.tensor(ImageColor.getrgb(colours[i]), dtype=torch.uint8)[:, None]
    return ((pixels.int() + paint.int()) // 2).to(torch.uint8)


def _draw_box(draw: ImageDraw.ImageDraw, box: tuple[float, ...], label: str, colour: str) -> None:
    """Draws a box, with its label above it where there is room, else at its top."""
    font = ImageFont.load_default(_FONT_SIZE)
    _, _, width, height = draw.textbbox((0, 0), label, font)
    corner = box[0], max(0.0, box[1] - height)
    draw.rectangle(box, outline=colour, width=2)
    draw.rectangle((*corner, corner[0] + width + 2, corner[1] + height), fill=colour)
    draw.text((corner[0] + 1, corner[1]), label, "white", font)


def _masks(image: AnnotatedImage, detections: Sequence[Detection], size: tuple[int, int]) -> Tensor:
    masks = decode([d["segmentation"]["counts"] for d in detections], image.height, image.width)
    return _resized(torch.from_numpy(masks) * 255, size) > 127


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
