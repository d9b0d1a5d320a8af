"""The training step on synthetic views: the authors' way, each of our changes to it alone, and all together; a small
network without a GPU. On a GPU, each at the whole recipe and at what one rank of eight has of it:

    python tools/bench.py step --rcfg rcfgs/ep100.yaml --json step_256.json
    python tools/bench.py step --rcfg rcfgs/ep100.yaml train.batch_size=32 --json step_32.json
"""

from __future__ import annotations

import argparse

from tools.benchmark.commands.common import (
    add_step_arguments,
    note,
    print_below,
    recipe_or_small_one,
    require_positive,
    write_result,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_step_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    sizes = require_positive(arguments, "rounds", "steps")
    import torch

    from fastintl.config import to_yaml
    from tools.benchmark import step as bench

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = recipe_or_small_one(arguments, device.type)
    torch.backends.cudnn.benchmark = True
    groups, flops = bench.contenders(config, device), bench.step_flops(config)
    rates = [bench.compare(group, config, device, arguments.rounds, arguments.steps, note) for group in groups]
    batch, model = config.train.batch_size, config.model
    rows = bench.as_json(groups, flops, rates, batch)
    _print_steps(rows, f"{model.arch}, batch {batch}, views {' '.join(map(str, config.crops.sizes))}, {device.type}")
    measured = {"flops_of_a_step": flops, "matrix_rates": rates, "config": to_yaml(config), "contenders": rows}
    write_result(arguments, "step", **sizes, **measured)


def _print_steps(rows: list[dict], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120, highlight=False)
    columns = ("step", "ms", "images/s", "times the first", "of the matrix rate", "peak memory", "first step")
    for number in sorted({row["group"] for row in rows}):
        table = Table(*columns, title=title)
        for row in (row for row in rows if row["group"] == number and row["median_seconds"]):
            memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f} GB"
            times = (f"{1000 * row['median_seconds']:,.1f}", f"{row['images_per_second']:,.0f}")
            ratios = (f"{row.get('times_the_baseline') or 0:.2f}", f"{row['share_of_matrix_rate']:.1%}")
            table.add_row(row["name"], *times, *ratios, memory, f"{row['first_step_seconds']:.1f} s")
        console.print(table)
    print_below(console, [f"{row['name']}: {row['error']}" for row in rows if row["error"]])
