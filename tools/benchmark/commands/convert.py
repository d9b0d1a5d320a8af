"""images/s and MB/s of writing a folder of images as one .beton file, on one core and on all, beside FFCV's own
writer, a loop over Pillow, and decoding alone, which bounds it. Each conversion has a process of its own; they are
timed in turn, without start-up. Every image must be readable: FFCV's writer waits for ever after one that is not.

    python tools/bench.py convert --data images --json convert.json
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from loaders.errors import UserError
from tools.benchmark.commands.common import (
    add_timing_arguments,
    note,
    print_below,
    require_positive,
    targets_as_json,
    write_result,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder class/image")
    add_timing_arguments(parser, rounds=3)


def run(arguments: argparse.Namespace) -> None:
    from loaders.datasets.folder import class_tree
    from tools.benchmark import convert as bench
    from tools.benchmark.loader import as_rows

    require_positive(arguments, "rounds")
    if not arguments.data.is_dir():
        raise UserError(f"{arguments.data} is no folder: give a folder class/image")
    names = class_tree(arguments.data).names
    megabytes = sum((arguments.data / name).stat().st_size for name in names) / 1e6
    cores = len(os.sched_getaffinity(0))
    group = bench.contenders(cores)
    bench.compare(arguments.data, group, arguments.rounds, note)
    found = bench.targets(group, cores)
    _print(group, found, cores, megabytes / len(names))
    sizes = {"images": len(names), "megabytes": megabytes, "rounds": arguments.rounds}
    contenders = as_rows("conversion", group)
    write_result(arguments, "convert", **sizes, contenders=contenders, targets=targets_as_json(found))


def _print(group, found, cores: int, megabytes: float) -> None:
    """``megabytes`` are those of an image."""
    from rich.console import Console
    from rich.table import Table

    from tools.benchmark.loader import left_out, rate

    console = Console(width=110, highlight=False)
    counts = sorted({1, cores})
    table = Table("conversion", *(f"{unit} on {n}" for n in counts for unit in ("images/s", "MB/s")), "peak memory")
    for name in dict.fromkeys(contender.name for contender in group):
        rows = {contender.cores: contender for contender in group if contender.name == name}
        rates = [rate(rows[n]) if n in rows else None for n in counts]
        cells = [f"{r * scale:,.{digits}f}" if r else "" for r in rates for scale, digits in ((1, 0), (megabytes, 1))]
        table.add_row(name, *cells, f"{max(c.peak_bytes for c in rows.values()) / 1e6:,.0f} MB")
    console.print(table)
    print_below(console, left_out(group), found)
