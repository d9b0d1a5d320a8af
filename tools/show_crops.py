"""Draws the crops of some images through every source that can run here, one below the other.

A row is a source: the image as it decodes it, with the boxes of the crops in their colours, and the crops. All
sources must give the same boxes and the same colours; the small numbers are mean differences to the first row, in
grey levels of 255. On a GPU the first row is cut by the CPU's engine and the others by the GPU's.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import UserError, exit_on_user_error  # noqa: E402

_MOST_IN_MEMORY = 5000  # images up to which the memory source is shown: it decodes the whole dataset first
_TILE, _IMAGE, _LABEL = 116, 160, 62  # sides and widths of views, images and labels, in pixels
_GAP, _TEXT = 6, 15  # between tiles, and of a line of text
_COLOURS = ("#e41a1c", "#377eb8", "#4daf4a", "#ff7f00", "#984ea3", "#00b8c4", "#f2c80f", "#f781bf", "#a65628")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rcfg", metavar="FILE", help="a recipe, such as rcfgs/ep100.yaml (default: ep100's values)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="a .beton or class folder (default: the recipe's)")
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="the epoch's first N images (default: 3)")
    parser.add_argument("--ids", metavar="I,J,...", help="numbers of the images to draw instead")
    parser.add_argument("--epoch", type=int, default=0, help="whose crops (default: 0)")
    parser.add_argument("--seed", type=int, help="of the crops (default: the recipe's)")
    parser.add_argument("--out", type=Path, default=Path("crops.png"), metavar="PNG", help="(default: crops.png)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
    return parser.parse_intermixed_args(arguments)


@dataclass
class Row:
    """What one source makes of the images.

    Attributes:
        label: its name, and that of the engine where there are two.
        ids: of the images, or of those that stand in for damaged ones.
        images: uint8 (H, W, 3) as decoded.
        draws: (n, V, COLUMNS), see ``loaders.multicrop.draws``.
        views: V arrays float (s, s, 3) an image, in grey levels of 255.
    """

    label: str
    ids: list[int]
    images: list
    draws: object
    views: list[list]


@exit_on_user_error
def main(arguments: list[str] | None = None) -> None:
    given = parse_arguments(arguments)
    from fastintl import config as configuration

    config = configuration.load(given.rcfg, given.overrides)

    from fastintl.data import find, multi_crop
    from loaders.sources import open_images

    logging.basicConfig(format="%(message)s")
    seed = config.seed if given.seed is None else given.seed
    images = open_images(given.data or find(config, "train"))
    samples = choose(given, len(images), seed)
    recipe = multi_crop(config.crops)
    rows, left_out = through_every_source(images, recipe, samples, seed, given.epoch)
    title = f"{images.path.name}, recipe {config.name}, seed {seed}, epoch {given.epoch}"
    image = draw_rows(rows, recipe, [images.names[i] for i in rows[0].ids], title, left_out)
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        image.save(given.out, format="PNG")
    except OSError as error:
        raise UserError(f"{given.out} cannot be written: {error.strerror or error}") from error
    print(f"{given.out}: {len(samples)} images through {', '.join(row.label for row in rows)}")
    for row in rows[1:]:
        worst = max(max(differences(row, rows[0], i)) for i in range(len(samples)))
        print(f"  {row.label}: at most {worst:.2f} grey levels of mean difference to {rows[0].label} in a crop")
    for reason in left_out:
        print(f"  {reason}")


def choose(given: argparse.Namespace, count: int, seed: int) -> list[int]:
    """Ids of the images to draw."""
    from loaders.order import permutation

    if given.ids is None:
        if not 1 <= given.samples <= count:
            raise UserError(f"--samples {given.samples}: the dataset has {count} images, choose from 1 to {count}")
        return permutation(count, seed, given.epoch)[: given.samples].tolist()
    try:
        ids = [int(word) for word in given.ids.split(",")]
    except ValueError:
        raise UserError(f"--ids {given.ids}: give whole numbers with commas between, such as 1,2,3") from None
    for i in ids:
        if not 0 <= i < count:
            raise UserError(f"--ids {i}: the dataset's images have the numbers 0 to {count - 1}")
    return ids


def through_every_source(images, recipe, samples: list[int], seed: int, epoch: int) -> tuple[list[Row], list[str]]:
    """A row a source that can run, and a sentence for each that cannot."""
    import torch

    from loaders.sources.choice import SOURCES

    rows, left_out = [], []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for source in SOURCES[1:]:  # the first is auto
        try:
            if source == "memory" and len(images) > _MOST_IN_MEMORY:
                raise UserError(f"it would decode all {len(images):,} images first")
            if device.type == "cuda" and not rows:
                rows.append(through(source, images, recipe, samples, seed, epoch, torch.device("cpu")))
            rows.append(through(source, images, recipe, samples, seed, epoch, device))
        except UserError as error:
            left_out.append(f"without {source}: {error}")
    if device.type == "cuda":
        rows[0].label += ", CPU"
    return rows, left_out


def through(source: str, images, recipe, samples: list[int], seed: int, epoch: int, device) -> Row:
    """Decodes and crops some images with one source and the engine of ``device``."""
    import numpy as np
    import torch

    from loaders.loader import open_engine
    from loaders.multicrop.draws import draw
    from loaders.sources.choice import open_source
    from loaders.sources.quarantine import Quarantine

    threads = len(os.sched_getaffinity(0))
    opened, _ = open_source(images, source, threads, Quarantine(images.path, len(images), 1.0), device)
    engine = open_engine(recipe, device, torch.float32, threads)
    try:
        for decoded in opened.batches([np.array(samples)]):
            views = engine(decoded.to(device), seed, epoch)
            return Row(
                label=source,
                ids=decoded.ids.tolist(),
                images=[image.cpu().numpy().copy() for image in decoded.images],
                draws=draw(recipe, seed, epoch, decoded.ids, decoded.heights, decoded.widths),
                views=[[to_levels(view[i], recipe) for view in views] for i in range(len(samples))],
            )
    finally:
        opened.close()
        engine.close()


def to_levels(view, recipe):
    """Undoes the normalisation: (3, s, s) to (s, s, 3) in [0, 255]."""
    from fastintl.report.crops import to_pixels

    return to_pixels(view, recipe) * 255


def differences(row: Row, first: Row, i: int) -> list[float]:
    """Mean absolute differences in grey levels of image i's views to those of the first row."""
    return [float(abs(view - other).mean()) for view, other in zip(row.views[i], first.views[i], strict=True)]


def draw_rows(rows: list[Row], recipe, names: list[str], title: str, left_out: list[str]):
    """The image of all rows, grouped by sample, as a PIL image."""
    from PIL import Image, ImageDraw

    count, views = len(rows[0].ids), len(recipe.views)
    width = 2 * _GAP + _LABEL + _IMAGE + views * (_TILE + _GAP)
    notes = [line for text in left_out for line in textwrap.wrap(text, width // 6)]
    row_height = _TILE + _TEXT + _GAP
    group_height = _TEXT + _GAP + len(rows) * row_height
    top = 4 * _TEXT + _GAP
    image = Image.new("RGB", (width, top + count * group_height + len(notes) * _TEXT + _GAP), "white")
    canvas = ImageDraw.Draw(image)
    write(canvas, (_GAP, _GAP), title, size=13)
    for n, line in enumerate(("small numbers: mean difference to", "the first row, in grey levels")):
        write(canvas, (_GAP, _GAP + (1.5 + n) * _TEXT), line)
    for v, spec in enumerate(recipe.views):
        low, high = spec.scale
        x = view_left(v)
        write(canvas, (x, _GAP + 1.5 * _TEXT), f"view {v}: {spec.size} px", colour_of(v))
        write(canvas, (x, _GAP + 2.5 * _TEXT), f"{low:.0%} to {high:.0%} of it")
    for i in range(count):
        y = top + i * group_height
        canvas.line([(_GAP, y - 2), (width - _GAP, y - 2)], fill="#bbbbbb")
        write(canvas, (_GAP, y), f"image {rows[0].ids[i]}  {names[i]}")
        for r, row in enumerate(rows):
            draw_row(image, canvas, y + _TEXT + _GAP + r * row_height, row, rows[0], i)
    for n, line in enumerate(notes):
        write(canvas, (_GAP, top + count * group_height + n * _TEXT), line)
    return image


def draw_row(image, canvas, y: int, row: Row, first: Row, i: int) -> None:
    """One sample through one source; below it the draws (first row) or the differences to the first row."""
    from PIL import Image

    write(canvas, (_GAP, y), row.label.replace(", ", "\n"), size=12)
    height, width = row.images[i].shape[:2]
    scale = min((_IMAGE - _GAP) / width, _TILE / height)
    whole = Image.fromarray(row.images[i]).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    image.paste(whole, (_GAP + _LABEL, y))
    for v in reversed(range(len(row.views[i]))):
        box = row.draws[i, v, :4] * scale
        draw_box(canvas, _GAP + _LABEL + box[1], y + box[0], box[3], box[2], colour_of(v))
    captions = [f"{width} x {height} px", *(words_of(draw) for draw in row.draws[i])]
    if row is not first:
        same = row.images[i].shape == first.images[i].shape
        whole_difference = abs(row.images[i].astype(int) - first.images[i]).mean() if same else float("nan")
        captions = [f"{number:.2f}" for number in (whole_difference, *differences(row, first, i))]
    write(canvas, (_GAP + _LABEL, y + _TILE), captions[0])
    for v, view in enumerate(row.views[i]):
        tile = Image.fromarray(view.round().astype("uint8")).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
        image.paste(tile, (view_left(v), y))
        canvas.rectangle([view_left(v), y, view_left(v) + _TILE - 1, y + _TILE - 1], outline=colour_of(v), width=2)
        write(canvas, (view_left(v), y + _TILE), captions[v + 1])


def draw_box(canvas, left: float, top: float, width: float, height: float, colour: str) -> None:
    box = [left, top, max(left, left + width - 1), max(top, top + height - 1)]
    canvas.rectangle(box, outline="black", width=3)  # so that any colour shows on any image
    canvas.rectangle(box, outline=colour, width=2)


def words_of(draw) -> str:
    """What a draw does besides the box, in a tile's width."""
    from loaders.multicrop import draws

    said = ["flip"] * bool(draw[draws.FLIP]) + ["jitter"] * bool(draw[draws.JITTER_ORDER] >= 0)
    said += ["grey"] * bool(draw[draws.GRAYSCALE])
    said += [f"blur {draw[draws.BLUR_SIGMA]:.1f}"] if draw[draws.BLUR_SIGMA] else []
    return " ".join(said + ["solar"] * bool(draw[draws.SOLARIZE])) or "as it is"


def view_left(v: int) -> int:
    return _GAP + _LABEL + _IMAGE + v * (_TILE + _GAP)


def colour_of(v: int) -> str:
    return _COLOURS[v % len(_COLOURS)]


def write(canvas, at: tuple[float, float], text: str, colour: str = "black", size: int = 11) -> None:
    from PIL import ImageFont

    canvas.text(at, text, fill=colour, font=ImageFont.load_default(size))


if __name__ == "__main__":
    main()
