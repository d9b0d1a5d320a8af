"""images/s from images on disk to normalised crops, for every source that can run here, beside other ways of making
the same crops. Each contender has a process of its own, on one core and on all; they are timed in turn, round after
round, without start-up and compilation, and halted meanwhile.

    python tools/bench.py loader --data data/imagenet_val.beton --json out.json
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tools.benchmark.commands.common import (
    add_timing_arguments,
    note,
    print_below,
    require_positive,
    targets_as_json,
    write_result,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help=".beton file or folder class/image")
    add_timing_arguments(parser)
    parser.add_argument("--rcfg", type=Path, help="recipe whose crops are made (default: INTL's for ImageNet)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round (default: 1.5)")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a batch (default: 32)")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from fastintl.config import load
    from fastintl.data import multi_crop
    from loaders.sources import open_images
    from tools.benchmark import loader as bench

    sizes = require_positive(arguments, "rounds", "seconds", "batch_size")
    images = open_images(arguments.data)
    recipe = multi_crop(load(arguments.rcfg, []).crops)
    cores, on_gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    groups = bench.contenders(cores, on_gpu)
    device = "cuda" if on_gpu else "cpu"
    with bench.workload(arguments.data, recipe, arguments.batch_size, device, note) as work:
        bench.compare(work, groups, arguments.rounds, arguments.seconds, note)
    found = bench.targets(*groups[:2], cores)
    _print(groups, found, bench, cores)
    sizes = {"images": len(images), "views": [spec.size for spec in recipe.views], **sizes}
    write_result(arguments, "loader", **sizes, contenders=bench.as_json(groups), targets=targets_as_json(found))


def _print(groups, found, bench, cores: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110, highlight=False)
    for title, group in zip(("decode, six crops, colour", "decode only", "crops on the GPU"), groups, strict=False):
        table = Table("images/s", *(f"on {n}" for n in sorted({1, cores})), "peak memory", title=title)
        for name in dict.fromkeys(c.name for c in group):
            rows = {c.cores: c for c in group if c.name == name}
            rates = [f"{r:,.0f}" if n in rows and (r := bench.rate(rows[n])) else "" for n in sorted({1, cores})]
            table.add_row(name, *rates, f"{max(c.peak_bytes for c in rows.values()) / 1e6:,.0f} MB")
        console.print(table)
    print_below(console, bench.left_out([contender for group in groups for contender in group]), found)
