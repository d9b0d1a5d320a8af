"""The crops of each engine that runs on this device beside those of the engine on the CPU, from the same draws: how far
their pixels are apart, how long a batch takes, and the memory for it.

    python tools/bench.py crops --rcfg rcfgs/ep100.yaml --json crops.json
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_overrides, require_positive
from .results import print_results, write_result

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fastintl.config import Config
    from loaders.sources.decoded import DecodedBatch

_SIZES = ((375, 500), (500, 333), (480, 640), (64, 400))  # pixels, in turn
# What tests/loaders/multicrop holds the engines to: their arithmetic is rounded in other places, and a value beside the
# solarising threshold may fall on either side of it.
_MEAN_LEVELS, _FAR_LEVELS, _FAR_SHARE = 0.5, 2.1, 1 / 200


@dataclass(frozen=True)
class Agreement:
    """One engine beside the CPU's.

    Attributes:
        mean_levels: mean difference of the pixels, in levels of 0 to 255.
        far_share: share of them that are more than two levels apart.
        milliseconds: of a batch.
        peak_bytes: memory of the device for it, the images included; None on a CPU.
    """

    engine: str
    mean_levels: float
    far_share: float
    milliseconds: float
    peak_bytes: int | None

    @property
    def agrees(self) -> bool:
        return self.mean_levels < _MEAN_LEVELS and self.far_share <= _FAR_SHARE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rcfg", metavar="RECIPE", help="recipe whose crops are made (default: INTL's for ImageNet)")
    parser.add_argument("--images", type=int, default=64, help="images in the batch (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each engine is timed (default: 5)")
    parser.add_argument("--json", type=Path, help="write what was measured, and the environment, to this file")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    sizes = require_positive(arguments, "images", "rounds")
    import torch
    from rich.table import Table

    from fastintl.config import load, to_yaml

    config = load(arguments.rcfg, arguments.overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = compare(config, device, arguments.images, arguments.rounds)
    rows = [asdict(row) | {"agrees": row.agrees} for row in found]
    write_result(arguments, "crops", **sizes, config=to_yaml(config), engines=rows)
    columns = ("engine", "mean difference", "over 2 levels", "ms a batch", "memory", "")
    table = Table(*columns, title="beside the CPU's crops")
    for row in found:
        memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB"
        difference = f"{row.mean_levels:.3f} levels", f"{row.far_share:.2%}"
        verdict = "agrees" if row.agrees else "DIFFERS"
        table.add_row(row.engine, *difference, f"{row.milliseconds:,.1f}", memory, verdict)
    print_results([table], [])


def compare(config: Config, device: torch.device, images: int, rounds: int) -> list[Agreement]:
    """Every engine of ``device``, on a batch of made-up images."""
    from fastintl.data import multi_crop
    from loaders.multicrop.cpu import CpuMultiCrop
    from loaders.multicrop.device import DeviceMultiCrop, choose_implementation

    recipe, batch = multi_crop(config.crops), made_up_batch(images)
    on_cpu = CpuMultiCrop(recipe, len(os.sched_getaffinity(0)))
    expected = on_cpu(batch, config.seed, 0)
    on_cpu.close()
    found = []
    # Triton on a CPU is an interpreter, for the tests.
    names = [choose_implementation(device)] if device.type == "cuda" else []
    for name in dict.fromkeys([*names, "batched"]):
        engine = DeviceMultiCrop(recipe, device, implementation=name)
        views, seconds, peak = _timed(engine, batch.to(device), config.seed, device, rounds)
        mean, far = _levels_apart(views, expected, recipe.std)
        found.append(Agreement(f"{name} on {device.type}", mean, far, 1000 * seconds, peak))
    return found


def made_up_batch(images: int) -> DecodedBatch:
    """Smooth images with a little noise, of some sizes and shapes."""
    import numpy as np
    import torch
    from PIL import Image

    from loaders.sources.decoded import packed

    made = []
    for number in range(images):
        rng, (height, width) = np.random.default_rng(number), _SIZES[number % len(_SIZES)]
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))
        noisy = np.asarray(coarse) + rng.normal(0, 10, (height, width, 3))
        made.append(torch.from_numpy(np.clip(noisy, 0, 255).astype(np.uint8)))
    return packed(made, np.arange(images), np.arange(images))


def _timed(engine, batch: DecodedBatch, seed: int, device: torch.device, rounds: int):
    """The views of a batch, the seconds of a batch after a first one that compiles, and the device's peak memory."""
    import torch

    from .synthetic import seconds_of

    views = engine(batch, seed, 0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_of(lambda: engine(batch, seed, 0), device, rounds) / rounds
    return views, seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _levels_apart(views: Sequence[Tensor], expected: Sequence[Tensor], std: Sequence[float]) -> tuple[float, float]:
    """Mean difference in levels of 0 to 255, and the share of values that are far apart, over all views."""
    import torch

    per_channel = 255 * torch.tensor(std)[:, None, None]
    apart = [
        ((view.float().cpu() - other.float()).abs() * per_channel).flatten()
        for view, other in zip(views, expected, strict=True)
    ]
    levels = torch.cat(apart)
    return levels.mean().item(), (levels > _FAR_LEVELS).float().mean().item()
