"""What the crops of a run look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from loaders import Loader, MultiCrop

_ROWS = 6
_GREY = "#808080"  # readable on white and on black: the background is transparent


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
    axes[0, 0].set_title("the picture", fontsize=7, color=_GREY)
    for view, (axis, spec) in enumerate(zip(axes[0, 1:], recipe.views, strict=True)):
        low, high = spec.scale
        axis.set_title(f"view {view}\n{spec.size} px\n{low:.0%}–{high:.0%}", fontsize=7, color=_GREY)
    figure.tight_layout(pad=0.4)
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
