"""An image of a run's crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from loaders import Loader, MultiCrop

_EPOCHS = 6
_COLUMN_INCHES = 2.2  # the image, and the views' names
_GREY = "#808080"  # readable on white and on black: the background is transparent


def draw_crops(loader: Loader, recipe: MultiCrop, path: Path) -> None:
    """Draws the dataset's first image and all its views, a view a row, an epoch a column, in true proportion."""
    plt = _pyplot()
    sizes = [spec.size for spec in recipe.views]
    inch = 1.15 / max(sizes)
    width, height = _COLUMN_INCHES + 1.2 * _EPOCHS, inch * sum(sizes) + 0.1 * len(sizes) + 0.25
    figure = plt.figure(figsize=(width, height))
    grid = figure.add_gridspec(
        len(sizes), 1 + _EPOCHS, width_ratios=[_COLUMN_INCHES / 1.2, *[1] * _EPOCHS], height_ratios=sizes
    )
    for epoch in range(_EPOCHS):
        image, views = loader.crops(0, epoch)
        for row, view in enumerate(views):
            axis = figure.add_subplot(grid[row, 1 + epoch])
            axis.imshow(to_pixels(view, recipe))
            axis.set_axis_off()
            if row == 0:
                axis.set_title(f"epoch {epoch}", fontsize=9, color=_GREY)
    for row, spec in enumerate(recipe.views):
        axis = figure.add_subplot(grid[row, 0])
        axis.set_axis_off()
        low, high = spec.scale
        label = f"view {row}\n{spec.size} px\n{low:.0%}–{high:.0%}"
        axis.text(1, 0.5, label, fontsize=9, color=_GREY, ha="right", va="center", transform=axis.transAxes)
    whole = figure.add_axes((0.005, 0, 0.6 * _COLUMN_INCHES / width, 1 - 0.3 / height), anchor="NW")
    whole.imshow(image.numpy())
    whole.set_axis_off()
    figure.subplots_adjust(0.005, 0.01, 0.995, 1 - 0.3 / height, wspace=0.06, hspace=0.06)
    figure.savefig(path, dpi=110, transparent=True)
    plt.close(figure)


def to_pixels(view: torch.Tensor, recipe: MultiCrop) -> np.ndarray:
    """Undoes the normalisation: (3, s, s) to (s, s, 3) in [0, 1]."""
    pixels = view.float().cpu().permute(1, 2, 0).numpy()
    return np.clip(pixels * np.array(recipe.std) + np.array(recipe.mean), 0, 1)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    return plt
