"""The compiled loops of ``cpu.py``; each releases the interpreter's lock and works on the rows it is given."""

from __future__ import annotations

import numpy as np

from fastintl.evaluate.nearest.float64 import NO_DISTANCE
from loaders.numba_options import compiled, compiled_with_nan

_CHUNK = 64
_FIRST, _LAST = np.int64(-(2**63)), np.int64(2**63 - 1)  # before and behind every key


@compiled_with_nan
def _inverse_length(row):
    square = 0.0
    for value in row:
        square += np.float64(value) * np.float64(value)
    return 1 / np.sqrt(square) if square > 0 else 0.0


@compiled_with_nan
def prepare(x, origin, scale, cosine, out, length):
    """Moves rows into the frame: float32 rows in ``out``, their lengths in float64."""
    for i in range(len(x)):
        factor = _inverse_length(x[i]) if cosine else scale
        square = 0.0
        for j in range(x.shape[1]):
            value = (np.float64(x[i, j]) - origin[j]) * factor
            square += value * value
            out[i, j] = value
        length[i] = np.sqrt(square)


@compiled
def screen(product, length, offset, reach, gamma, unit, first, score, index):
    """Keeps in each row's max-heap the features with the smallest lower bounds. What is screened is finite.

    Args:
        product: (q, f) float32, the products of a tile of queries and f features of a block.
        length: (F,), the lengths of the block's features.
        offset: which of the block is the first of the f.
        reach: the largest length of the queries.
        gamma, unit: constants of the bound, see ``cpu.py``.
        first: index of the block's first feature.
        score, index: (q, m) heaps, the largest score first.
    """
    first, count = first + offset, product.shape[1]
    height = np.empty(count, np.float32)
    for j in range(count):
        b = length[offset + j]
        lower = 0.5 * b * b - (gamma + unit) * b * reach - unit * (b * b + reach * reach)
        height[j] = min(lower, 1e38)
    whole = count // _CHUNK * _CHUNK
    for i in range(len(score)):
        # Indexed, not cut into parts first: numba counts the references to each part, which takes as long as to
        # compare it.
        row, best, where = product[i], score[i], index[i]
        for start in range(0, whole, _CHUNK):
            worst, found = best[0], np.int32(0)
            for j in range(_CHUNK):  # vectorised, which a minimum or an early end would not be
                found |= np.int32(height[start + j] - row[start + j] < worst)
            if found:
                _take_better(height, row, start, start + _CHUNK, first, best, where)
        _take_better(height, row, whole, count, first, best, where)


@compiled
def _take_better(height, product, start, end, first, score, index):
    for j in range(start, end):
        value = height[j] - product[j]
        if value < score[0]:
            _replace_worst(score, index, value, first + j)


@compiled
def _replace_worst(score, index, value, where):
    """Puts a value and its index in the place of the largest of a heap."""
    hole, count = 0, len(score)
    while True:
        child = 2 * hole + 1
        if child >= count:
            break
        if child + 1 < count and score[child + 1] > score[child]:
            child += 1
        if score[child] <= value:
            break
        score[hole], index[hole] = score[child], index[child]
        hole = child
    score[hole], index[hole] = value, where


@compiled_with_nan
def measure(
    features, queries, scale, cosine, feature_length, query_length, score, index, nearest_square, nearest_index, proven
):
    """Orders the candidates by exact distance, then index; ``proven`` says whether no other feature is as near."""
    k, count = nearest_square.shape[1], score.shape[1]
    best, where = np.empty(k, np.int64), np.empty(k, np.int64)
    for i in range(len(queries)):
        best[:] = _LAST
        a = query_length[i]
        query_factor = _inverse_length(queries[i]) if cosine else 1.0
        for j in range(count):
            f = np.int64(index[i, j])
            factor = _inverse_length(features[f]) if cosine else 1.0
            square = _square_distance(queries[i], query_factor, features[f], factor)
            b = feature_length[f]
            if square * scale * scale < NO_DISTANCE * (a * a + b * b):
                square = 0.0
            key = (np.int64(np.float32(square).view(np.int32)) << 32) | f
            if key < best[0]:
                _replace_worst(best, where, key, f)
        for j in range(k - 1, -1, -1):  # the worst of those that are left
            nearest_square[i, j], nearest_index[i, j] = np.int32(best[0] >> 32).view(np.float32), where[0]
            _replace_worst(best, where, _FIRST, np.int64(0))
        others = (2 * np.float64(score[i, 0]) + a * a) * (1 - 1e-9)  # in the frame; no other feature is nearer
        proven[i] = count == len(features) or (
            others > 4 * NO_DISTANCE * a * a and np.float32(others / (scale * scale)) > nearest_square[i, k - 1]
        )


@compiled_with_nan
def _square_distance(query, query_factor, feature, feature_factor):
    square = 0.0
    for j in range(len(query)):
        difference = np.float64(query[j]) * query_factor - np.float64(feature[j]) * feature_factor
        square += difference * difference
    return square
