"""What a detector finds in a set of images, in COCO's format of results."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastintl.detection.annotations import AnnotatedSet
from fastintl.detection.loader import test_images
from fastintl.detection.outlines import encode
from fastintl.distributed import World
from fastintl.network.precision import autocast
from loaders.progress import Progress

Detection = dict[str, Any]
"""``image_id``, ``category_id``, ``bbox`` (left, top, width, height), ``score``, and ``segmentation`` (run lengths) of
a mask: plain values, as in COCO's files of results."""


@torch.no_grad()
def detect(
    network: nn.Module,
    annotated: AnnotatedSet,
    world: World,
    dtype: torch.dtype,
    threads: int,
    title: str | None = None,
) -> list[Detection]:
    """Runs the detector on every image once, one at a time; the ranks share the images.

    Args:
        threads: threads of this rank that read images.
        title: title of the progress, which the first rank shows on stderr; None shows none.

    Returns:
        On the first rank the detections of all images, in the order of the set; on the others nothing.
    """
    mine = range(world.rank, len(annotated), world.world_size)
    network.eval()
    found: dict[int, list[Detection]] = {}
    shown = title is not None and world.is_main
    with Progress(title, "images", len(mine)) if shown else nullcontext() as progress:
        images = test_images([annotated.images[i] for i in mine], threads)
        for i, (image, pixels) in zip(mine, images, strict=True):
            with autocast(world.device, dtype):
                (output,) = network([pixels.to(world.device)])
            found[i] = as_results(output, image.id, annotated.category_ids)
            if progress:
                progress.advance(1)
    everything = _gather(found, world)
    return [detection for i in sorted(everything) for detection in everything[i]]


def as_results(output: dict[str, Tensor], image_id: int | str, category_ids: tuple[int | str, ...]) -> list[Detection]:
    """A detector's output on one image as plain values."""
    left, top, right, bottom = output["boxes"].float().cpu().unbind(1)
    boxes = torch.stack([left, top, right - left, bottom - top], dim=1).tolist()
    scores, labels = output["scores"].tolist(), output["labels"].tolist()
    found = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    if "masks" in output:
        masks = (output["masks"][:, 0] > 0.5).to(torch.uint8).cpu().numpy()
        for detection, mask in zip(found, masks, strict=True):
            detection["segmentation"] = encode(mask)
    return found


def _gather(found: dict[int, list[Detection]], world: World) -> dict[int, list[Detection]]:
    if world.world_size == 1:
        return found
    parts: list = [None] * world.world_size if world.is_main else []
    dist.gather_object(found, parts if world.is_main else None)
    return {i: detections for part in parts for i, detections in part.items()}
