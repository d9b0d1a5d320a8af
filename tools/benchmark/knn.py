"""k-NN search beside other exact searches and the matrix product that each of them contains."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from fastintl.evaluate.nearest.cpu import nearest
from tools.benchmark.loader import Target
from tools.benchmark.turns import Contender, able

OURS, SCIKIT, FAISS = "fastintl", "scikit-learn, brute force", "faiss-cpu, flat index"
# All threads in one product, and each in tiles of its own, which waits less where others use the machine, too.
PRODUCT, TILES = "matrix product alone", "matrix product alone, in tiles"
_PRODUCT_BLOCK, _TILE = 4096, 512


def contenders(features: np.ndarray, queries: np.ndarray, k: int, memory: float) -> list[Contender]:
    """Who is timed: each returns the neighbours' indices (Q, k), the bare products None.

    Indices are built here, outside of the timing.
    """
    return [
        Contender(OURS, lambda: nearest(features, queries, k, "euclidean", memory)[1]),
        _scikit(features, queries, k),
        _faiss(features, queries, k),
        _product(features, queries),
        _tiles(features, queries),
    ]


def agreement(contenders: Sequence[Contender]) -> dict[str, float]:
    """Runs each once; of those that find neighbours, by name, the share of them that are ours, in any order."""
    answers = {contender.name: contender.run() for contender in able(contenders)}
    return {name: _overlap(found, answers[OURS]) for name, found in answers.items() if found is not None}


def targets(contenders: Sequence[Contender]) -> list[Target]:
    """The project's promises, measured: medians over the rounds of the ratio of two rates."""
    by_name = {contender.name: contender for contender in contenders}
    promised = {SCIKIT: None, FAISS: 1.0, PRODUCT: 0.85, TILES: 0.85}
    return [Target(f"{OURS} : {name}", least, _ratio(by_name[OURS], by_name[name])) for name, least in promised.items()]


def _overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """Of two tables of indices, (Q, k), row by row."""
    return statistics.mean(len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, expected, strict=True))


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
