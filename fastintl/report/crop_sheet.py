"""The crops of some images through every source that can run here, one below the other, as one image.

A row is a source: the image as it decodes it, with the boxes of the crops in their colours, and the crops. On a GPU
the first row is cut by the CPU's engine and the others by the GPU's.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFont
from PIL.ImageDraw import Draw, ImageDraw

from fastintl.report.crops import to_pixels
from loaders.errors import UserError
from loaders.loader import open_engine
from loaders.multicrop import draws
from loaders.recipe import MultiCrop
from loaders.sources import Images
from loaders.sources.choice import SOURCES, open_source
from loaders.sources.quarantine import Quarantine

_MOST_IN_MEMORY = 5000  # images up to which the memory source is shown: it decodes the whole dataset first
_TILE, _IMAGE, _LABEL = 116, 160, 62  # sides and widths of views, images and labels, in pixels
_GAP, _TEXT = 6, 15  # between tiles, and of a line of text
_TOP, _ROW = 4 * _TEXT + _GAP, _TILE + _TEXT + _GAP  # heights of the title and of a row
_COLOURS = ("#e41a1c", "#377eb8", "#4daf4a", "#ff7f00", "#984ea3", "#00b8c4", "#f2c80f", "#f781bf", "#a65628")


@dataclass
class Row:
    """What one source makes of the images.

    Attributes:
        label: the source's name, and that of the engine where there are two.
        ids: ids of the images, or of those that stand in for damaged ones.
        images: uint8 (H, W, 3) as decoded.
        draws: (n, V, COLUMNS), see ``loaders.multicrop.draws``.
        views: for each image V arrays float (s, s, 3), in grey levels of 255.
    """

    label: str
    ids: list[int]
    images: list[np.ndarray]
    draws: np.ndarray
    views: list[list[np.ndarray]]

    def differences(self, first: Row, i: int) -> list[float]:
        """Mean absolute differences in grey levels of image i's views to those of the first row."""
        return [float(abs(view - other).mean()) for view, other in zip(self.views[i], first.views[i], strict=True)]


def through_every_source(
    images: Images, recipe: MultiCrop, samples: Sequence[int], seed: int, epoch: int
) -> tuple[list[Row], list[str]]:
    """Decodes and crops some images; returns a row for each source that can run, and a sentence for each other."""
    cpu, device = torch.device("cpu"), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, left_out = [], []
    for source in SOURCES:
        if source == "auto" or (source == "nvjpeg" and device == cpu):  # nvJPEG decodes on GPUs alone
            continue
        try:
            if source == "memory" and len(images) > _MOST_IN_MEMORY:
                raise UserError(f"it would decode all {len(images):,} images first")
            for where in [cpu, device] if device != cpu and not rows else [device]:
                rows.append(_through(source, images, recipe, samples, seed, epoch, where))
        except UserError as error:
            left_out.append(f"without {source}: {error}")
    if device != cpu:
        rows[0].label += ", CPU"
    return rows, left_out


def draw_sheet(
    rows: Sequence[Row], recipe: MultiCrop, names: Sequence[str], title: str, notes: Sequence[str]
) -> Image.Image:
    """The sheet of all rows, grouped by image.

    Args:
        names: the images' names.
        notes: sentences below the rows.
    """
    first, count = rows[0], len(names)
    width = view_left(len(recipe.views)) + _GAP
    lines = [line for note in notes for line in textwrap.wrap(note, width // 6)]
    group = _TEXT + _GAP + len(rows) * _ROW
    bottom = _TOP + count * group
    sheet = Image.new("RGB", (width, bottom + len(lines) * _TEXT + _GAP), "white")
    canvas = Draw(sheet)
    _write(canvas, (_GAP, _GAP), title, size=13)
    _write(canvas, (_GAP, _GAP + 1.5 * _TEXT), "small numbers: mean difference to\nthe first row, in grey levels")
    for v, spec in enumerate(recipe.views):
        low, high = spec.scale
        _write(canvas, (view_left(v), _GAP + 1.5 * _TEXT), f"view {v}: {spec.size} px", colour_of(v))
        _write(canvas, (view_left(v), _GAP + 2.5 * _TEXT), f"{low:.0%} to {high:.0%} of it")
    for i in range(count):
        y = _TOP + i * group
        canvas.line([(_GAP, y - 2), (width - _GAP, y - 2)], fill="#bbbbbb")
        _write(canvas, (_GAP, y), f"image {first.ids[i]}  {names[i]}")
        for r, row in enumerate(rows):
            _draw_row(sheet, canvas, y + _TEXT + _GAP + r * _ROW, row, first, i)
    for n, line in enumerate(lines):
        _write(canvas, (_GAP, bottom + n * _TEXT), line)
    return sheet


def view_left(v: int) -> int:
    """Where the tiles of a view begin, in pixels."""
    return _GAP + _LABEL + _IMAGE + v * (_TILE + _GAP)


def colour_of(v: int) -> str:
    """The colour of a view's box and frame."""
    return _COLOURS[v % len(_COLOURS)]


def _through(
    source: str,
    images: Images,
    recipe: MultiCrop,
    samples: Sequence[int],
    seed: int,
    epoch: int,
    device: torch.device,
) -> Row:
    threads = len(os.sched_getaffinity(0))
    opened, _ = open_source(images, source, threads, Quarantine(images.path, len(images), 1.0), device)
    with closing(opened), closing(open_engine(recipe, device, torch.float32, threads)) as engine:
        for decoded in opened.batches([np.array(samples)]):  # a batch, which is valid within the loop
            views = engine(decoded.to(device), seed, epoch)
            return Row(
                label=source,
                ids=decoded.ids.tolist(),
                images=[image.cpu().numpy().copy() for image in decoded.images],
                draws=draws.draw(recipe, seed, epoch, decoded.ids, decoded.heights, decoded.widths),
                views=[[255 * to_pixels(view[i], recipe) for view in views] for i in range(len(samples))],
            )


def _draw_row(sheet: Image.Image, canvas: ImageDraw, y: int, row: Row, first: Row, i: int) -> None:
    """One image through one source; below it the draws (first row) or the differences to the first row."""
    _write(canvas, (_GAP, y), row.label.replace(", ", "\n"), size=12)
    height, width = row.images[i].shape[:2]
    scale = min((_IMAGE - _GAP) / width, _TILE / height)
    whole = Image.fromarray(row.images[i]).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    sheet.paste(whole, (_GAP + _LABEL, y))
    for v in reversed(range(len(row.views[i]))):
        top, left, box_height, box_width = row.draws[i, v, :4] * scale
        _draw_box(canvas, _GAP + _LABEL + left, y + top, box_width, box_height, colour_of(v))
    captions = [f"{width} x {height} px", *map(_words_of, row.draws[i])]
    if row is not first:
        same = row.images[i].shape == first.images[i].shape
        whole_difference = abs(row.images[i].astype(int) - first.images[i]).mean() if same else float("nan")
        captions = [f"{number:.2f}" for number in (whole_difference, *row.differences(first, i))]
    _write(canvas, (_GAP + _LABEL, y + _TILE), captions[0])
    for v, view in enumerate(row.views[i]):
        left = view_left(v)
        tile = Image.fromarray(view.round().astype("uint8")).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
        sheet.paste(tile, (left, y))
        canvas.rectangle([left, y, left + _TILE - 1, y + _TILE - 1], outline=colour_of(v), width=2)
        _write(canvas, (left, y + _TILE), captions[v + 1])


def _draw_box(canvas: ImageDraw, left: float, top: float, width: float, height: float, colour: str) -> None:
    box = [left, top, max(left, left + width - 1), max(top, top + height - 1)]
    canvas.rectangle(box, outline="black", width=3)  # so that any colour shows on any image
    canvas.rectangle(box, outline=colour, width=2)


def _words_of(draw: np.ndarray) -> str:
    """What a draw does besides the box, in a tile's width."""
    said = ["flip"] * bool(draw[draws.FLIP]) + ["jitter"] * bool(draw[draws.JITTER_ORDER] >= 0)
    said += ["grey"] * bool(draw[draws.GRAYSCALE])
    said += [f"blur {draw[draws.BLUR_SIGMA]:.1f}"] if draw[draws.BLUR_SIGMA] else []
    return " ".join(said + ["solar"] * bool(draw[draws.SOLARIZE])) or "as it is"


def _write(canvas: ImageDraw, at: tuple[float, float], text: str, colour: str = "black", size: int = 11) -> None:
    canvas.text(at, text, fill=colour, font=ImageFont.load_default(size))
