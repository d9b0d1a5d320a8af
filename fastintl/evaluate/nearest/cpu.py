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

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fastintl.evaluate.nearest import float64
from fastintl.evaluate.nearest.cpu_loops import measure, prepare, screen
from fastintl.evaluate.threads import team
from loaders.errors import UserError

# A thread's product of this many queries and features stays in its cache until it is screened.
_QUERY_TILE, _FEATURE_TILE = 512, 512
_HUGE = 2.0**40  # scaled vectors this long could overflow a float32 product
_UNIT = 2.0**-24


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

    def load(self, x: np.ndarray, out: np.ndarray, length: np.ndarray, name: str) -> None:
        """Moves the rows x (n, d) into the frame, in float32, and writes their lengths."""
        prepare(x, self.origin, self.scale, self.cosine, out, length)
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
    frame, count = _Frame.of(features, metric), torch.get_num_threads()
    query_Qd, query_length = np.empty(queries.shape, np.float32), np.empty(len(queries))
    feature_length = np.empty(len(features))
    square_Qk, index_Qk = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    proven = np.empty(len(queries), np.bool_)

    def settle(r: slice) -> None:
        measure(
            features, queries[r], frame.scale, frame.cosine, feature_length, query_length[r], found.score[r],
            found.index[r], square_Qk[r], index_Qk[r], proven[r],
        )  # fmt: skip

    with _full_precision(), team(count) as threads:
        parts = _slices(len(queries), -(-len(queries) // (4 * count)))
        _all(threads.submit(frame.load, queries[r], query_Qd[r], query_length[r], "queries") for r in parts)
        found = _Candidates(query_Qd, query_length, min(len(features), k + 16 + k // 8))
        _screen_all(features, feature_length, frame, found, _block_rows(memory, features), count, threads)
        _all(threads.submit(settle, r) for r in parts)
    proven &= (query_length < _HUGE) & (feature_length.max() < _HUGE)
    left = np.flatnonzero(~proven)
    for rows in np.array_split(left, -(-len(left) // 4096)) if len(left) else ():
        found = float64.nearest(features, queries[rows], k, metric, memory / 4, torch.device("cpu"))
        square_Qk[rows], index_Qk[rows] = (x.numpy() for x in found)
    return square_Qk, index_Qk


def _screen_all(
    features: np.ndarray,
    length: np.ndarray,
    frame: _Frame,
    found: _Candidates,
    rows: int,
    count: int,
    threads: Executor,
) -> None:
    """Ranks all features for all queries, and writes the features' lengths.

    Two blocks of so many rows are under way: threads that find no tile of one left prepare the next, and nobody waits
    for the slowest before the end. What a task waits for is always begun before it.
    """
    block = np.empty((2, rows, features.shape[1]), np.float32)
    tiles = _slices(len(found.query_Qd), min(_QUERY_TILE, -(-len(found.query_Qd) // count)))
    taken: deque[list[Future]] = deque([[], []])  # of the last two blocks, a task a tile
    for number, part in enumerate(_slices(len(features), rows)):
        _all(taken.popleft())  # its half of ``block`` is free
        source, block_fd, length_f = features[part], block[number % 2, : part.stop - part.start], length[part]
        loaded = [
            threads.submit(frame.load, source[r], block_fd[r], length_f[r], "features")
            for r in _slices(len(source), _FEATURE_TILE)
        ]
        work = partial(found.take, block_fd=block_fd, length=length_f, first=part.start)
        # A tile's candidates are one task's at a time.
        waits_for = [[*loaded, *taken[-1][i : i + 1]] for i in range(len(tiles))]
        taken.append(
            [threads.submit(_after, others, work, tile) for others, tile in zip(waits_for, tiles, strict=True)]
        )
    for last in taken:
        _all(last)


def _after(others: Iterable[Future], work: Callable[[slice], None], tile: slice) -> None:
    _all(others)
    work(tile)


def _all(futures: Iterable[Future]) -> None:
    """Waits for all; what went wrong in one is raised here."""
    for future in list(futures):
        future.result()


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)] if count else []


class _Candidates:
    """Each query's features with the smallest lower bounds: heaps of scores and indices, (Q, m), the largest first."""

    def __init__(self, query_Qd: np.ndarray, query_length: np.ndarray, count: int) -> None:
        self.query_Qd, self.query_length = query_Qd, query_length
        self.score = np.full((len(query_Qd), count), np.finfo(np.float32).max, np.float32)
        self.index = np.zeros((len(query_Qd), count), np.int32)
        unit = query_Qd.shape[1] * _UNIT
        self.rounding = unit / (1 - unit), 8 * _UNIT

    def take(self, tile: slice, block_fd: np.ndarray, length: np.ndarray, first: int) -> None:
        """Screens a block of features, of which ``first`` is the first, for a tile of the queries."""
        query, score, index = torch.from_numpy(self.query_Qd[tile]), self.score[tile], self.index[tile]
        reach = min(self.query_length[tile].max(), _HUGE)
        # Little of Python between two products, which leave nothing of it in the cache: a line costs tens of
        # microseconds there.
        parts = torch.from_numpy(block_fd).T.split(_FEATURE_TILE, 1)
        product = torch.empty(len(query), parts[0].shape[1])
        values, start = product.numpy(), 0
        for part in parts:
            if part.shape[1] != values.shape[1]:  # the last
                product = torch.empty(len(query), part.shape[1])
                values = product.numpy()
            torch.mm(query, part, out=product)
            screen(values, length, start, reach, *self.rounding, first, score, index)
            start += _FEATURE_TILE


def _block_rows(memory: float, features: np.ndarray) -> int:
    """Features of one of two blocks: both have room in a quarter of the memory, and in a third-level cache."""
    rows = int(memory / 8 / (4 * features.shape[1])) // _FEATURE_TILE * _FEATURE_TILE
    return min(max(rows, _FEATURE_TILE), 8 * _FEATURE_TILE, len(features))


@contextmanager
def _full_precision():
    """Products in full float32: the bound holds for nothing coarser."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
