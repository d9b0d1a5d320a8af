"""An image of a run's crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFont, ImageOps
from PIL.ImageDraw import Draw

from loaders import Loader, MultiCrop

_EPOCHS = 6
_TILE = 126  # side of the largest view, in pixels
_COLUMN, _WHOLE = 242, 138  # widths of the first column, which has the views' names, and of the image in it
_GAP, _TITLE, _TEXT = 8, 26, 13  # between tiles, above them, and of a line of text
_GREY = "#808080"  # readable on white and on black: the background is transparent


def draw_crops(loader: Loader, recipe: MultiCrop, path: Path) -> None:
    """Draws the dataset's first image and all its views, a view a row, an epoch a column, in true proportion.

    Raises:
        OSError: the file cannot be written.
    """
    largest = max(spec.size for spec in recipe.views)
    sides = [max(1, round(_TILE * spec.size / largest)) for spec in recipe.views]
    tops = [_TITLE + sum(sides[:row]) + _GAP * row for row in range(len(sides))]
    sheet = Image.new("RGBA", (_COLUMN + _EPOCHS * (_TILE + _GAP), tops[-1] + sides[-1] + _GAP), (0, 0, 0, 0))
    canvas, font = Draw(sheet), ImageFont.load_default(_TEXT)
    for epoch in range(_EPOCHS):
        image, views = loader.crops(0, epoch)
        middle = _COLUMN + epoch * (_TILE + _GAP) + _TILE // 2
        canvas.text((middle, _TITLE / 2), f"epoch {epoch}", _GREY, font, anchor="mm")
        for view, side, top in zip(views, sides, tops, strict=True):
            pixels = Image.fromarray((255 * to_pixels(view, recipe)).round().astype(np.uint8))
            sheet.paste(pixels.resize((side, side), Image.Resampling.BICUBIC), (middle - side // 2, top))
    for row, (spec, side, top) in enumerate(zip(recipe.views, sides, tops, strict=True)):
        low, high = spec.scale
        words = f"view {row}\n{spec.size} px\n{low:.0%} to {high:.0%}"
        canvas.text((_COLUMN - _GAP, top + side / 2), words, _GREY, font, anchor="rm", align="right")
    room = _WHOLE, sheet.height - _TITLE - _GAP
    sheet.paste(ImageOps.contain(Image.fromarray(image.numpy()), room), (_GAP, _TITLE))
    sheet.save(path)


def to_pixels(view: torch.Tensor, recipe: MultiCrop) -> np.ndarray:
    """Undoes the normalisation: (3, s, s) to (s, s, 3) in [0, 1]."""
    pixels = view.float().cpu().permute(1, 2, 0).numpy()
    return np.clip(pixels * np.array(recipe.std) + np.array(recipe.mean), 0, 1)
