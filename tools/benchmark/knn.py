"""queries/s of the exact nearest-neighbour search on the CPU, beside scikit-learn's, faiss-cpu's and the bare matrix
product that each of them contains, on random features.

    python tools/bench.py knn --json knn.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from loaders.errors import UserError

from .contenders import Contender, ratio, time_in_turn, timed
from .options import add_timing, require_positive
from .results import Target, print_results, write_result

if TYPE_CHECKING:
    import numpy as np
    import torch

OURS, SCIKIT, FAISS = "fastintl", "scikit-learn, brute force", "faiss-cpu, flat index"
# All threads in one product, and each in tiles of its own, which waits less where others use the machine, too.
PRODUCT, TILES = "matrix product alone", "matrix product alone, in tiles"
_PROMISED = {SCIKIT: None, FAISS: 1.0, PRODUCT: 0.85, TILES: 0.85}
_PRODUCT_BLOCK, _TILE = 4096, 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing(parser)
    parser.add_argument("--features", type=int, default=100_000, help="features to search in (default: 100000)")
    parser.add_argument("--queries", type=int, default=2048, help="features to search for (default: 2048)")
    parser.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--k", type=int, default=5, help="neighbours (default: 5)")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np
    from rich.table import Table

    shape = require_positive(arguments, "features", "queries", "channels", "k", "rounds")
    if arguments.k > arguments.features:
        raise UserError("--k must be at most --features")
    rng = np.random.default_rng(0)
    features, queries = (
        rng.standard_normal((count, arguments.channels), np.float32)
        for count in (arguments.features, arguments.queries)
    )
    answers: dict[str, np.ndarray] = {}
    group = contenders(features, queries, arguments.k, answers)
    time_in_turn(group, arguments.rounds)
    # The share of the neighbours that are ours, in any order.
    agreement = {name: _overlap(found, answers[OURS]) for name, found in answers.items() if OURS in answers}
    by_name = {contender.name: contender for contender in group}
    targets = [
        Target(f"{OURS} : {name}", least, ratio(by_name[name], by_name[OURS], "seconds"))
        for name, least in _PROMISED.items()
    ]
    table = Table(title=f"{arguments.k} nearest of {arguments.features:,} features of {arguments.channels} channels")
    for column in ("search", "queries/s", "same neighbours"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for contender in group:
        if seconds := contender.median("seconds"):
            agrees = f"{agreement[contender.name]:.2%}" if contender.name in agreement else ""
            table.add_row(contender.name, f"{arguments.queries / seconds:,.0f}", agrees)
    rows = [c.as_json("seconds", failure="missing") | {"agrees": agreement.get(c.name)} for c in group]
    write_result(arguments, "knn", **shape, contenders=rows, targets=[target.as_json() for target in targets])
    print_results([table], group, targets)


def contenders(features: np.ndarray, queries: np.ndarray, k: int, answers: dict[str, np.ndarray]) -> list[Contender]:
    """Who is timed. What the searches find at first, untimed, goes to ``answers``: indices (Q, k) by name."""

    def search(name: str, build: Callable) -> Contender:
        def prepare() -> Callable:
            run = build(features, queries, k)
            answers[name] = run()
            return run

        return Contender(name, partial(timed, prepare))

    return [
        search(OURS, _ours),
        search(SCIKIT, _scikit),
        search(FAISS, _faiss),
        Contender(PRODUCT, partial(timed, partial(_product, features, queries))),
        Contender(TILES, partial(timed, partial(_tiles, features, queries))),
    ]


def _overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """The share of equal indices in the rows of two tables, (Q, k)."""
    import numpy as np

    return statistics.mean(len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, expected, strict=True))


def _ours(features: np.ndarray, queries: np.ndarray, k: int) -> Callable:
    from fastintl.evaluate.nearest import cpu
    from fastintl.evaluate.nearest.knn import MEMORY

    return lambda: cpu.nearest(features, queries, k, "euclidean", MEMORY)[1]


def _scikit(features: np.ndarray, queries: np.ndarray, k: int) -> Callable:
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        raise UserError("it is not installed; pip install scikit-learn") from None
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features)
    return lambda: index.kneighbors(queries, return_distance=False)


def _faiss(features: np.ndarray, queries: np.ndarray, k: int) -> Callable:
    try:
        import faiss
    except ImportError:
        raise UserError("it is not installed; pip install -c constraints.txt -e '.[bench]'") from None
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    return lambda: index.search(queries, k)[1]


def _product(features: np.ndarray, queries: np.ndarray) -> Callable:
    import torch

    feature_Fd, query_Qd = torch.from_numpy(features), torch.from_numpy(queries)
    block_QF = torch.empty(len(queries), min(_PRODUCT_BLOCK, len(features)))

    def multiply() -> None:
        for block_Fd in feature_Fd.split(_PRODUCT_BLOCK):
            torch.mm(query_Qd, block_Fd.T, out=block_QF[:, : len(block_Fd)])

    return multiply


def _tiles(features: np.ndarray, queries: np.ndarray) -> Callable:
    import torch

    feature_Fd, threads = torch.from_numpy(features), torch.get_num_threads()
    rows = min(_TILE, -(-len(queries) // threads))

    def multiply(query_Qd: torch.Tensor) -> None:
        out = torch.empty(len(query_Qd), min(_TILE, len(feature_Fd)))
        for block_Fd in feature_Fd.split(_TILE):
            torch.mm(query_Qd, block_Fd.T, out=out[:, : len(block_Fd)])

    def multiply_all() -> None:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(multiply, torch.from_numpy(queries).split(rows)))
        torch.set_num_threads(threads)

    return multiply_all
