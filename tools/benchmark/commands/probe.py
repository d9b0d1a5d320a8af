"""Seconds to train linear heads on cached features: one, a sweep of 40 at once, the 40 one after another, and others'
ways, on random features.

    python tools/bench.py probe --json probe.json
"""

from __future__ import annotations

import argparse

from loaders.errors import UserError
from tools.benchmark.commands.common import add_timing_arguments, print_below, require_positive, write_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument("--samples", type=int, default=20_000, help="features to learn from (default: 20000)")
    parser.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--classes", type=int, default=10, help="default: 10")
    parser.add_argument("--epochs", type=int, default=2, help="in batches of 1000 (default: 2)")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from tools.benchmark import probe as bench
    from tools.benchmark.turns import time_in_turn

    shape = require_positive(arguments, "samples", "channels", "classes", "epochs", "rounds")
    if not 1 < arguments.classes <= arguments.samples:
        raise UserError("--classes must be from 2 to --samples")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = bench.random_features(arguments.samples, arguments.channels, arguments.classes, device)
    contenders = bench.contenders(features, arguments.classes, arguments.epochs)
    bench.warm_up(contenders)
    time_in_turn(contenders, arguments.rounds, torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    ratios = bench.ratios(contenders)
    size = f"{arguments.samples:,} features of {arguments.channels} channels, {arguments.classes} classes"
    _print(contenders, ratios, f"{arguments.epochs} epochs of {size}, {device.type}")
    rows = [contender.as_row() for contender in contenders]
    write_result(arguments, "probe", **shape, contenders=rows, ratios=ratios)


def _print(contenders, ratios: dict[str, float], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from tools.benchmark.turns import left_out

    console = Console(width=110, highlight=False)
    table = Table("training", "median", title=title)
    for contender in contenders:
        if contender.median:
            table.add_row(contender.name, f"{contender.median:.3f} s")
    console.print(table)
    print_below(console, left_out(contenders))
    for name, ratio in ratios.items():
        console.print(f"{name:64} {ratio:8.2f}")
