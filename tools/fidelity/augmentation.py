"""The same images through our augmentation and the authors': the distributions of boxes, factors and pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastintl.config import load
from fastintl.data import multi_crop
from loaders.loader import open_engine
from loaders.multicrop import draws
from loaders.recipe import MultiCrop
from loaders.sources.decoded import packed
from tools.fidelity.checkouts import COMMANDS, RECIPES, Checkouts
from tools.fidelity.comparison import ks_chance, ks_distance
from tools.fidelity.pixels import pixel_statistics
from tools.fidelity.their_process import ask

SMALL = ("cifar10", "cw_rgp/cifar10_2")
LARGE = ("ep100", "ep800_two_crop", "cw_rgp/imagenet_ep100")
_BATCH = 100

_FACTORS = {
    "brightness": draws.BRIGHTNESS, "contrast": draws.CONTRAST, "saturation": draws.SATURATION, "hue": draws.HUE,
    "order of the jitter": draws.JITTER_ORDER,
}  # fmt: skip
_SHARES = {"flipped": draws.FLIP, "grey": draws.GRAYSCALE, "solarised": draws.SOLARIZE}


def compare_augmentation(recipe: str, checkouts: Checkouts, images: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Sends images through the augmentation of a recipe, ours once and the authors' twice.

    Args:
        images: uint8 (H, W, 3).

    Returns:
        A row for each view and quantity: ``kind`` (boxes, factors, shares or pixels), ``quantity`` and ``view``; how
        many ``values`` each side has, and their means, ``theirs`` and ``ours``; ``distance``, the Kolmogorov-Smirnov
        distance of the two distributions, and ``own``, that of the authors' two; ``chance``: what the largest distance
        of its kind exceeds in one of a hundred comparisons where nothing differs, None where the values are not
        independent.
    """
    command, crops = COMMANDS[recipe], multi_crop(load(RECIPES / f"{recipe}.yaml").crops)
    sizes = np.array([image.shape[:2] for image in images])
    job = {"script": str(checkouts.file(command.whose, command.script).absolute()), "images": list(images)}
    answer = ask("crops", "view", {**job, "arguments": command.arguments(checkouts), "seeds": [0, 1]})
    first, second = ([*_quantities(one["draws"].numpy(), one["pixels"], sizes)] for one in answer["seeds"])
    ours = [*_quantities(*_our_views(crops, images, sizes), sizes)]
    rows = [_row(*three) for three in zip(first, second, ours, strict=True) if len(three[0][-1])]
    for row in rows:
        alike = sum(other["kind"] == row["kind"] for other in rows)
        row["chance"] = ks_chance(*row["values"], 0.01 / alike) if row["quantity"] != "all pixels" else None
    return rows


def worst(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each kind the row with the largest distance."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return [max((row for row in rows if row["kind"] == kind), key=lambda row: row["distance"]) for kind in kinds]


def _row(first: tuple, second: tuple, ours: tuple) -> dict[str, Any]:
    kind, quantity, view, theirs = first
    distance = _distance_of_histograms if quantity == "all pixels" else ks_distance
    mean = _mean_level if quantity == "all pixels" else np.mean
    return {
        "kind": kind,
        "quantity": quantity,
        "view": view,
        "values": [len(theirs), len(ours[-1])],
        "theirs": float(mean(theirs)),
        "ours": float(mean(ours[-1])),
        "distance": distance(ours[-1], theirs),
        "own": distance(second[-1], theirs),
    }


def _distance_of_histograms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.cumsum() / a.sum() - b.cumsum() / b.sum()).max())


def _mean_level(histogram: np.ndarray) -> float:
    return histogram @ np.arange(len(histogram)) / histogram.sum()


def _our_views(crops: MultiCrop, images: Sequence[Tensor], sizes: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    plain = replace(crops, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    engine = open_engine(plain, torch.device("cpu"), torch.float32, torch.get_num_threads())
    table = draws.draw(crops, 0, 0, np.arange(len(images)), sizes[:, 0], sizes[:, 1])
    parts: list[list[Tensor]] = [[] for _ in crops.views]
    for start in range(0, len(images), _BATCH):
        some = list(images[start : start + _BATCH])
        ids = np.arange(start, start + len(some))
        for part, view in zip(parts, engine(packed(some, np.zeros_like(ids), ids), 0, 0), strict=True):
            part.append(view.permute(0, 2, 3, 1).clamp(0, 1))
    engine.close()
    return table, [pixel_statistics(torch.cat(part)) for part in parts]


def _quantities(table: np.ndarray, pixels: list[dict], sizes: np.ndarray) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Kind, name, view and values (n,) of everything that is compared; of all pixels a histogram (256,)."""
    height, width = sizes.T
    for view, statistics in enumerate(pixels):
        rows = table[:, view]
        box_height, box_width = rows[:, draws.HEIGHT], rows[:, draws.WIDTH]
        yield "boxes", "area", view, box_height * box_width / (height * width)
        yield "boxes", "log of the ratio", view, np.log(box_width / box_height)
        for name, place, room in (("top", draws.TOP, height - box_height), ("left", draws.LEFT, width - box_width)):
            yield "boxes", name, view, rows[room > 0, place] / room[room > 0]
        jittered, blurred = rows[:, draws.JITTER_ORDER] >= 0, rows[:, draws.BLUR_SIGMA] > 0
        for name, column in _FACTORS.items():
            yield "factors", name, view, rows[jittered, column]
        yield "factors", "sigma of the blur", view, rows[blurred, draws.BLUR_SIGMA]
        for name, happened in (("jittered", jittered), ("blurred", blurred)):
            yield "shares", name, view, happened.astype(float)
        for name, column in _SHARES.items():
            yield "shares", name, view, rows[:, column]
        for name in ("mean", "std"):
            for channel, colour in enumerate(("red", "green", "blue")):
                yield "pixels", f"{name} of {colour}", view, statistics[name][:, channel].numpy()
        yield "pixels", "all pixels", view, statistics["histogram"].sum(0).numpy()
