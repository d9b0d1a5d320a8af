"""queries/s of the exact nearest-neighbour search on the CPU, beside scikit-learn's, faiss-cpu's and the bare matrix
product, on random features.

    python tools/bench.py knn --json knn.json
"""

from __future__ import annotations

import argparse

from loaders.errors import UserError
from tools.benchmark.commands.common import (
    add_timing_arguments,
    print_below,
    require_positive,
    targets_as_json,
    write_result,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument("--features", type=int, default=100_000, help="features to search in (default: 100000)")
    parser.add_argument("--queries", type=int, default=2048, help="features to search for (default: 2048)")
    parser.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--k", type=int, default=5, help="neighbours (default: 5)")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from fastintl.evaluate.nearest.knn import MEMORY
    from tools.benchmark import knn as bench
    from tools.benchmark.turns import time_in_turn

    shape = require_positive(arguments, "features", "queries", "channels", "k", "rounds")
    if arguments.k > arguments.features:
        raise UserError("--k must be at most --features")
    rng = np.random.default_rng(0)
    features, queries = (
        rng.standard_normal((count, arguments.channels), np.float32)
        for count in (arguments.features, arguments.queries)
    )
    contenders = bench.contenders(features, queries, arguments.k, MEMORY)
    agreement = bench.agreement(contenders)
    time_in_turn(contenders, arguments.rounds)
    found = bench.targets(contenders)
    _print(contenders, agreement, found, arguments)
    rows = [{**contender.as_row(), "agrees": agreement.get(contender.name)} for contender in contenders]
    write_result(arguments, "knn", **shape, contenders=rows, targets=targets_as_json(found))


def _print(contenders, agreement: dict[str, float], found, arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from tools.benchmark.turns import left_out

    console = Console(width=110, highlight=False)
    table = Table(title=f"{arguments.k} nearest of {arguments.features:,} features of {arguments.channels} channels")
    for column in ("search", "queries/s", "same neighbours"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for contender in contenders:
        if contender.median:
            agrees = f"{agreement[contender.name]:.2%}" if contender.name in agreement else ""
            table.add_row(contender.name, f"{arguments.queries / contender.median:,.0f}", agrees)
    console.print(table)
    print_below(console, left_out(contenders), found)
