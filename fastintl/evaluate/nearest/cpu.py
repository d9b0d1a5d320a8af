"""The k nearest features on a CPU: a float32 product screens, float64 decides, and a bound proves that nothing is lost.

Exact distances of all pairs would cost many times the plain float32 product. So a query's features are ranked by
a lower bound of their distance, made from the product and the worst case of its rounding. The first few, more than k,
are measured in float64. If the next one's bound lies beyond the k-th exact distance, no other feature can be nearer,
and the answer is proven. Queries without a proof (large groups of equal features, mostly) go to ``float64.nearest``.

The bound. With u = 2^-24, a and b a centred, scaled query and feature, p their float32 product over d channels,
``|p - a.b| <= gamma |a| |b|`` with ``gamma = d u / (1 - d u)`` in whatever order it is summed (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 3.1). What rounding a and b to float32 and forming the score
``|b|^2 / 2 - p`` add is below ``8 u (|a| |b| + |a|^2 + |b|^2)``.

Shapes: Q queries and F features of d channels, m > k candidates a query.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from fastintl.evaluate.nearest import float64
from fastintl.evaluate.nearest.cpu_loops import measure, prepare, screen
from loaders.errors import UserError

# A thread's product of this many queries and features stays in its second-level cache until it is screened.
_QUERY_TILE, _FEATURE_TILE = 512, 512
_HUGE = 2.0**40  # scaled vectors this long could overflow a float32 product
_UNIT = 2.0**-24


class _Team:
    """Threads that share rows or tiles of work."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self.pool, self.threads = pool, threads

    def over_rows(self, count: int, work) -> None:
        edges = np.linspace(0, count, 4 * self.threads + 1).astype(int)
        self.each([slice(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a], work)

    def each(self, items: list, work) -> None:
        list(self.pool.map(work, items))  # list(): an exception in a thread is raised here


@dataclass(frozen=True)
class _Frame:
    """Where distances are screened: ``(x - origin) scale``, or ``x / |x|`` for the cosine metric."""

    origin: np.ndarray
    scale: float
    cosine: bool

    @classmethod
    def of(cls, features: np.ndarray, metric: str) -> _Frame:
        some = features[:: max(1, len(features) // 1024)].astype(np.float64)
        if metric == "cosine":
            return cls(np.zeros(features.shape[1]), 1.0, True)
        origin = some.mean(0)
        largest = np.linalg.norm(some - origin, axis=1).max()
        # A power of two scales without rounding.
        return cls(origin, 2.0 ** -np.ceil(np.log2(largest)) if 0 < largest < np.inf else 1.0, False)

    def load(self, team: _Team, x: np.ndarray, out: np.ndarray, length: np.ndarray, name: str) -> None:
        """Moves the rows x (n, d) into the frame, in float32, and writes their lengths."""
        team.over_rows(len(x), lambda r: prepare(x[r], self.origin, self.scale, self.cosine, out[r], length[r]))
        if not np.isfinite(length).all():
            raise UserError(f"k-NN: the {name} hold NaN or infinite values; the network has diverged")
        out[length >= _HUGE] = 0  # would overflow the product; nothing is proven without them


def nearest(
    features: np.ndarray, queries: np.ndarray, k: int, metric: str, memory: float
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest features of each query, nearest first, equally near ones by index.

    Args:
        features: (F, d) float32 or float64, in memory or mapped from a file.
        queries: (Q, d), likewise.
        metric: "euclidean" or "cosine".
        memory: bytes to use beside the arrays given.

    Returns:
        Squared distances and indices, as ``float64.nearest`` gives them, but as arrays.

    Raises:
        UserError: NaN or infinity in the features or queries.
    """
    frame, threads = _Frame.of(features, metric), torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with _single_threaded_products(), pool:
        team = _Team(pool, threads)
        query_Qd, query_length = np.empty(queries.shape, np.float32), np.empty(len(queries))
        frame.load(team, queries, query_Qd, query_length, "queries")
        found = _Candidates(query_Qd, query_length, min(len(features), k + 16 + k // 8))
        block_Fd = np.empty((_block_rows(memory, features), features.shape[1]), np.float32)
        feature_length = np.empty(len(features))
        for start in range(0, len(features), len(block_Fd)):
            rows = features[start : start + len(block_Fd)]
            block_Fd, length = block_Fd[: len(rows)], feature_length[start : start + len(rows)]
            frame.load(team, rows, block_Fd, length, "features")
            found.take(team, block_Fd, length, start)

        square_Qk, index_Qk = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        proven = np.empty(len(queries), np.bool_)

        def settle(r: slice) -> None:
            lengths = feature_length, query_length[r]
            measure(
                features, queries[r], frame.scale, frame.cosine, *lengths, found.score[r], found.index[r],
                square_Qk[r], index_Qk[r], proven[r],
            )  # fmt: skip

        team.over_rows(len(queries), settle)
    proven &= (query_length < _HUGE) & (feature_length.max() < _HUGE)
    left = np.flatnonzero(~proven)
    for rows in np.array_split(left, -(-len(left) // 4096)) if len(left) else ():
        found = float64.nearest(features, queries[rows], k, metric, memory / 4, torch.device("cpu"))
        square_Qk[rows], index_Qk[rows] = (x.numpy() for x in found)
    return square_Qk, index_Qk


class _Candidates:
    """Each query's features with the smallest lower bounds: heaps of scores and indices, (Q, m), the largest first."""

    def __init__(self, query_Qd: np.ndarray, query_length: np.ndarray, count: int) -> None:
        self.query_Qd, self.query_length = query_Qd, query_length
        self.score = np.full((len(query_Qd), count), np.finfo(np.float32).max, np.float32)
        self.index = np.zeros((len(query_Qd), count), np.int32)
        unit = query_Qd.shape[1] * _UNIT
        self.rounding = unit / (1 - unit), 8 * _UNIT

    def take(self, team: _Team, block_Fd: np.ndarray, length: np.ndarray, first: int) -> None:
        """Screens a block of features, of which ``first`` is the first."""
        rows = min(_QUERY_TILE, -(-len(self.query_Qd) // team.threads))
        tiles = [slice(i, i + rows) for i in range(0, len(self.query_Qd), rows)]
        team.each(tiles, lambda tile: self._take(tile, block_Fd, length, first))

    def _take(self, tile: slice, block_Fd: np.ndarray, length: np.ndarray, first: int) -> None:
        query, score, index = torch.from_numpy(self.query_Qd[tile]), self.score[tile], self.index[tile]
        reach = min(self.query_length[tile].max(), _HUGE)
        product = torch.empty(len(query), _FEATURE_TILE)
        for start in range(0, len(block_Fd), _FEATURE_TILE):
            part = slice(start, start + _FEATURE_TILE)
            feature = torch.from_numpy(block_Fd[part])
            out = product[:, : len(feature)]
            torch.mm(query, feature.T, out=out)
            screen(out.numpy(), length[part], reach, *self.rounding, first + start, score, index)


def _block_rows(memory: float, features: np.ndarray) -> int:
    rows = int(memory / 4 / (4 * features.shape[1])) // _FEATURE_TILE * _FEATURE_TILE
    return min(max(rows, _FEATURE_TILE), 16 * _FEATURE_TILE, len(features))


@contextmanager
def _single_threaded_products():
    """Each thread of ours multiplies alone, and in full float32: the bound holds for nothing coarser."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)  # new threads take the number that was set last, in whatever thread
