"""k-NN search beside other exact searches and the matrix product that each of them contains."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from fastintl.benchmark.rest import let_threads_sleep
from fastintl.evaluate import nearest_cpu
from loaders.benchmark.loader import Target

OURS, SCIKIT, FAISS = "fastintl", "scikit-learn, brute force", "faiss-cpu, flat index"
# All threads in one product, and each in tiles of its own, which waits less where others use the machine, too.
PRODUCT, TILES = "matrix product alone", "matrix product alone, in tiles"
_PRODUCT_BLOCK, _TILE = 4096, 512


@dataclass
class Contender:
    """One way of searching.

    Attributes:
        search: answers all queries; returns the neighbours' indices (Q, k), None for the bare product.
        seconds: of each round.
        agrees: share of its neighbours that are ours, in any order.
        missing: why it did not run.
    """

    name: str
    search: Callable[[], np.ndarray | None] | None
    missing: str | None = None
    seconds: list[float] = field(default_factory=list)
    agrees: float | None = None


def contenders(features: np.ndarray, queries: np.ndarray, k: int, memory: float) -> list[Contender]:
    """Who is timed; indices are built here, outside of the timing."""
    return [
        Contender(OURS, lambda: nearest_cpu.nearest(features, queries, k, "euclidean", memory)[1]),
        _scikit(features, queries, k),
        _faiss(features, queries, k),
        _product(features, queries),
        _tiles(features, queries),
    ]


def compare(contenders: list[Contender], rounds: int) -> None:
    """Times all in turn, ``rounds`` times, after one untimed round that also compares their answers."""
    able = [contender for contender in contenders if contender.search]
    answers = {contender.name: contender.search() for contender in able}
    for contender in able:
        found = answers[contender.name]
        if found is not None:
            pairs = zip(found, answers[OURS], strict=True)
            contender.agrees = statistics.mean(len(np.intersect1d(a, b)) / len(b) for a, b in pairs)
    for _ in range(rounds):
        for contender in able:
            let_threads_sleep()
            start = time.perf_counter()
            contender.search()
            contender.seconds.append(time.perf_counter() - start)


def targets(contenders: list[Contender]) -> list[Target]:
    """The project's promises, measured: medians over the rounds of the ratio of two rates."""
    by_name = {contender.name: contender for contender in contenders}
    promised = {SCIKIT: None, FAISS: 1.0, PRODUCT: 0.85, TILES: 0.85}
    return [Target(f"{OURS} : {name}", least, _ratio(by_name[OURS], by_name[name])) for name, least in promised.items()]


def as_json(contenders: list[Contender]) -> list[dict]:
    names = ("name", "missing", "seconds", "agrees")
    return [{name: getattr(contender, name) for name in names} for contender in contenders]


def print_table(contenders: list[Contender], found: list[Target], queries: int, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110, highlight=False)
    table = Table(title=title)
    for column in ("search", "queries/s", "same neighbours"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for contender in contenders:
        if contender.seconds:
            agrees = "" if contender.agrees is None else f"{contender.agrees:.2%}"
            table.add_row(contender.name, f"{queries / statistics.median(contender.seconds):,.0f}", agrees)
    console.print(table)
    for contender in contenders:
        if contender.missing:
            console.print(f"left out: {contender.name}: {contender.missing}")
    for target in found:
        console.print(str(target))


def _ratio(first: Contender, second: Contender) -> float | None:
    pairs = list(zip(first.seconds, second.seconds, strict=False))
    return statistics.median(b / a for a, b in pairs) if pairs else None


def _scikit(features: np.ndarray, queries: np.ndarray, k: int) -> Contender:
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        return Contender(SCIKIT, None, "it is not installed; pip install scikit-learn")
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features)
    return Contender(SCIKIT, lambda: index.kneighbors(queries, return_distance=False))


def _faiss(features: np.ndarray, queries: np.ndarray, k: int) -> Contender:
    try:
        import faiss
    except ImportError:
        return Contender(FAISS, None, "it is not installed; pip install -c constraints.txt -e '.[bench]'")
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    return Contender(FAISS, lambda: index.search(queries, k)[1])


def _product(features: np.ndarray, queries: np.ndarray) -> Contender:
    feature_Fd, query_Qd = torch.from_numpy(features), torch.from_numpy(queries)
    block_QF = torch.empty(len(queries), min(_PRODUCT_BLOCK, len(features)))

    def multiply() -> None:
        for block_Fd in feature_Fd.split(_PRODUCT_BLOCK):
            torch.mm(query_Qd, block_Fd.T, out=block_QF[:, : len(block_Fd)])

    return Contender(PRODUCT, multiply)


def _tiles(features: np.ndarray, queries: np.ndarray) -> Contender:
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

    return Contender(TILES, multiply_all)
