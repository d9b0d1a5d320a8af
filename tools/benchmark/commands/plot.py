"""Draws what the other parts measured, one SVG a file:

    python tools/bench.py plot docs/benchmarks/*.json --out docs/figures
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.benchmark.commands.common import read_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON", help="what --json of another part wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder (default: docs/figures)")


def run(arguments: argparse.Namespace) -> None:
    from tools.benchmark.bars import draw
    from tools.benchmark.figures import caption, figure

    for path in arguments.results:
        result = read_result(path)
        drawn = figure(result)
        if drawn is None or not drawn[1]:
            print(f"{path}: nothing to draw")
            continue
        title, bars = drawn
        target = arguments.out / f"{path.stem}.svg"
        draw(bars, title, caption(result), target)
        print(target)
