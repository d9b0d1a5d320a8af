"""Seconds to train linear heads on cached features: one, a sweep of 40 at once, the 40 one after another, and others'
ways, on random features.

    python tools/bench.py probe --json probe.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastintl.benchmark.commands.common import origin
from loaders.errors import UserError
from loaders.json_file import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="write every time, the ratios and the surroundings to this file")
    parser.add_argument("--samples", type=int, default=20_000, help="features to learn from (default: 20000)")
    parser.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--classes", type=int, default=10, help="default: 10")
    parser.add_argument("--epochs", type=int, default=2, help="in batches of 1000 (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender is timed (default: 5)")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from fastintl.benchmark import probe as bench

    shape = {name: getattr(arguments, name) for name in ("samples", "channels", "classes", "epochs", "rounds")}
    if min(shape.values()) < 1 or not 1 < arguments.classes <= arguments.samples:
        raise UserError("--samples, --channels, --epochs and --rounds must be positive, --classes 2 to --samples")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = bench.random_features(arguments.samples, arguments.channels, arguments.classes, device)
    contenders = bench.contenders(features, arguments.classes, arguments.epochs)
    bench.compare(contenders, arguments.rounds, device)
    size = f"{arguments.samples:,} features of {arguments.channels} channels, {arguments.classes} classes"
    bench.print_table(contenders, f"{arguments.epochs} epochs of {size}, {device.type}")
    if arguments.json:
        result = {
            **origin("probe"),
            **shape,
            "contenders": [{"name": c.name, "missing": c.missing, "seconds": c.seconds} for c in contenders],
            "ratios": bench.ratios(contenders),
        }
        write_json(arguments.json, result)
