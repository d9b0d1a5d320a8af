"""The AP of detections by the rule of their dataset, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastintl.detection.annotations import AnnotatedSet
from fastintl.detection.config import DetectionConfig
from fastintl.detection.inference import Detection
from fastintl.detection.voc_ap import voc_metrics


def measure(config: DetectionConfig, annotated: AnnotatedSet, detections: Sequence[Detection]) -> dict[str, float]:
    """AP, AP50 and AP75 as fractions, of boxes and of masks where there are some."""
    if config.data.layout == "voc":
        return voc_metrics(annotated, detections)
    from fastintl.detection.coco_ap import coco_metrics  # needs pycocotools

    return coco_metrics(annotated.path, detections, config.model.masks)


def print_table(metrics: Mapping[str, float], images: int, folder: Path) -> None:
    """Prints a row for boxes and one for masks, in per cent."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("", box=box.SIMPLE_HEAD)
    numbers = ("AP", "AP50", "AP75")
    for number in numbers:
        table.add_column(number, justify="right")
    for kind in dict.fromkeys(name.split()[0] for name in metrics):
        table.add_row(kind, *(f"{metrics[f'{kind} {number}']:.1%}" for number in numbers))
    console.print(table)
    console.print(f"{images:,} images; results in {folder}", soft_wrap=True)
