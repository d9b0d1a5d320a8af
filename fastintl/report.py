"""A run in pictures: what the crops look like, and how the run went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastintl.metrics_file import read_metrics
from loaders import Loader, MultiCrop

_ROWS = 6


def draw_crops(loader: Loader, recipe: MultiCrop, path: Path) -> None:
    """Draws the data set's first picture and all its views, an epoch a row, at their true relative sizes."""
    plt = _pyplot()
    sizes = [max(spec.size for spec in recipe.views), *(spec.size for spec in recipe.views)]
    figure, axes = plt.subplots(
        _ROWS,
        len(sizes),
        figsize=(1.6 * sum(sizes) / max(sizes), 1.7 * _ROWS),
        width_ratios=sizes,
        squeeze=False,
    )
    for epoch, row in enumerate(axes):
        picture, views = loader.crops(0, epoch)
        for axis in row:
            axis.set_axis_off()
        if epoch == 0:
            row[0].imshow(picture.numpy())
        for axis, view in zip(row[1:], views, strict=True):
            axis.imshow(to_pixels(view, recipe))
    axes[0, 0].set_title("the picture", fontsize=7)
    for view, (axis, spec) in enumerate(zip(axes[0, 1:], recipe.views, strict=True)):
        low, high = spec.scale
        axis.set_title(f"view {view}\n{spec.size} px\n{low:.0%}–{high:.0%}", fontsize=7)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def to_pixels(view: torch.Tensor, recipe: MultiCrop) -> np.ndarray:
    """Undoes the normalisation: (3, s, s) to (s, s, 3) in [0, 1]."""
    pixels = view.float().cpu().permute(1, 2, 0).numpy()
    return np.clip(pixels * np.array(recipe.std) + np.array(recipe.mean), 0, 1)


def draw_curves(metrics: Path, path: Path) -> None:
    """Draws loss, 5-nn accuracy, learning rate and throughput over the epochs, from ``metrics.jsonl``."""
    rows = read_metrics(metrics)
    steps = [row for row in rows if "loss" in row]
    scores = [row for row in rows if "knn_top1" in row]
    plt = _pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(9, 6))
    epochs = [row["epoch"] for row in steps]
    panels = [("loss", "loss"), (None, None), ("lr", "learning rate"), ("images_per_second", "images / s")]
    for axis, (key, title) in zip(axes.flat, panels, strict=True):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        if key is not None:
            axis.plot(epochs, [row[key] for row in steps], color="C0")
            axis.set_title(title)
    accuracy = axes[0, 1]
    accuracy.set_title("nearest-neighbour accuracy on held-out pictures")
    accuracy.plot([row["epoch"] for row in scores], [row["knn_top1"] for row in scores], "o-", label="trained")
    for baseline, style in (("untrained", "--"), ("raw_pixels", "-."), ("chance", ":")):
        values = [row[f"knn_top1_{baseline}"] for row in rows if f"knn_top1_{baseline}" in row]
        if values:
            accuracy.axhline(values[-1], color="C7", linestyle=style, label=baseline.replace("_", " "))
    accuracy.set_ylim(0, 1)
    accuracy.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    return plt
