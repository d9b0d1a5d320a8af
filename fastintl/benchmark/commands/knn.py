"""queries/s of the exact nearest-neighbour search on the CPU, beside scikit-learn's, faiss-cpu's and the bare matrix
product, on random features.

    python tools/bench.py knn --json knn.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastintl.benchmark.commands.common import origin, targets_as_json
from loaders.errors import UserError
from loaders.json_file import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="write every time, the ratios and the surroundings to this file")
    parser.add_argument("--features", type=int, default=100_000, help="features to search in (default: 100000)")
    parser.add_argument("--queries", type=int, default=2048, help="features to search for (default: 2048)")
    parser.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--k", type=int, default=5, help="neighbours (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender is timed (default: 5)")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from fastintl.benchmark import knn as bench
    from fastintl.evaluate.knn import MEMORY

    shape = {name: getattr(arguments, name) for name in ("features", "queries", "channels", "k", "rounds")}
    if min(shape.values()) < 1 or arguments.k > arguments.features:
        raise UserError("--features, --queries, --channels, --k and --rounds must be positive, --k at most --features")
    rng = np.random.default_rng(0)
    features, queries = (
        rng.standard_normal((count, arguments.channels), np.float32)
        for count in (arguments.features, arguments.queries)
    )
    contenders = bench.contenders(features, queries, arguments.k, MEMORY)
    bench.compare(contenders, arguments.rounds)
    found = bench.targets(contenders)
    title = f"{arguments.k} nearest of {arguments.features:,} features of {arguments.channels} channels"
    bench.print_table(contenders, found, arguments.queries, title)
    if arguments.json:
        result = {
            **origin("knn"),
            **shape,
            "contenders": bench.as_json(contenders),
            "targets": targets_as_json(found),
        }
        write_json(arguments.json, result)
