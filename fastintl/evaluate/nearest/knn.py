"""k-nearest-neighbour classification of features, exact.

Shapes: Q queries and F features of d channels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastintl.distributed import World
from fastintl.distributed.collectives import gather
from fastintl.evaluate.nearest import cpu, float64
from loaders.errors import UserError

Array = TypeVar("Array", np.ndarray, Tensor)

MEMORY = 2e9  # bytes
_LEAST_MEMORY = 1e8
_VOTE_ROWS = 512


def predict(
    features: Array,
    labels: Array,
    queries: Array,
    k: int | Sequence[int] = 5,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    vote: Literal["majority", "weighted"] = "majority",
    temperature: float = 0.07,
    *,
    memory: float = MEMORY,
    device: torch.device | str | None = None,
) -> Array | dict[int, Array]:
    """Predicts the labels of ``queries`` from their k nearest ``features``.

    Distances are computed in float64 and compared after rounding to float32, so that duplicates tie. Equal
    distances go to the smallest index, as a stable sort would have it; equal votes to the smallest label.

    Args:
        features: (F, d), a tensor or a NumPy array, which may be mapped from a file.
        labels: (F,) integers.
        queries: (Q, d).
        k: how many neighbours vote; several numbers are answered from one search.
        metric: "euclidean" (INTL's protocol, on unnormalised features) or "cosine".
        vote: "majority", or "weighted": a neighbour at cosine similarity s counts ``exp(s / temperature)``
            (Wu et al., CVPR 2018). With the Euclidean metric ``1 - distance^2 / 2`` takes the place of s.
        temperature: the temperature of the weighted vote.
        memory: the most bytes to use beside the arrays given, to within a few tens of megabytes; pages of a mapped
            file are not counted, since the operating system can drop them.
        device: where to compute. None: where the features are.

    Returns:
        (Q,) labels, of the kind, type and device of ``labels``; for several k, a dict of them by k.

    Raises:
        UserError: shapes that do not fit, k out of range, an unknown metric or vote, NaN in the features, too
            little memory.
    """
    several = not isinstance(k, int | np.integer)
    ks = sorted({int(number) for number in k}) if several else [int(k)]
    _check(features, labels, queries, ks, metric, vote, temperature, memory)
    search = _search(features, metric, memory, device)
    # Copied: arrays mapped from a file may be read-only, which torch has no notion of.
    label_F = torch.from_numpy(np.array(labels)) if isinstance(labels, np.ndarray) else labels
    votes = _Votes(label_F, ks, vote, temperature)
    found = {number: [] for number in ks}
    for block in _blocks(queries, memory, ks[-1]):
        square_Qk, index_Qk = search(block, ks[-1])
        for number, part in votes(square_Qk, index_Qk).items():
            found[number].append(part)
    predicted = {number: torch.cat(parts) if parts else votes.none for number, parts in found.items()}
    if isinstance(labels, np.ndarray):
        predicted = {number: tensor.numpy() for number, tensor in predicted.items()}
    return predicted if several else predicted[ks[0]]


def nearest(
    features: Array,
    queries: Array,
    k: int = 5,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    *,
    memory: float = MEMORY,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest ``features`` of each of the ``queries``, nearest first; the arguments are those of ``predict``.

    Returns:
        Squared distances (Q, k) and indices of the features (Q, k) int64, both on the CPU.

    Raises:
        UserError: as ``predict``.
    """
    _check(features, np.empty(len(features)), queries, [k], metric, "majority", 1.0, memory)
    search = _search(features, metric, memory, device)
    parts = [[found.cpu() for found in search(block, k)] for block in _blocks(queries, memory, k)]
    square_Qk, index_Qk = (torch.cat(column) for column in zip(*parts, strict=True))
    return square_Qk, index_Qk.long()


def majority(labels: Tensor, index_Qk: Tensor) -> Tensor:
    """The labels (Q,) that most of the neighbours have, of equal votes the smallest.

    Args:
        labels: (F,) integers, the features' labels.
        index_Qk: (Q, k), which features are the neighbours, as ``nearest`` finds them.
    """
    k = index_Qk.shape[1]
    return _Votes(labels, [k], "majority", 1.0)(torch.zeros(index_Qk.shape), index_Qk)[k]


def accuracy(
    features: Array,
    labels: Array,
    queries: Array,
    query_labels: Array,
    k: int | Sequence[int] = 5,
    *,
    world: World | None = None,
    **options,
) -> float | dict[int, float]:
    """The fraction of ``queries`` whose label ``predict`` finds; for several k, a dict of fractions by k.

    Args:
        query_labels: (Q,), of the kind and on the device of ``labels``.
        world: the ranks, each of which classifies a share of the queries; the answer is the same on all. None: this
            process classifies all queries.
        options: further arguments of ``predict``.
    """
    mine = slice(world.rank, None, world.world_size) if world else slice(None)
    predicted = predict(features, labels, queries[mine], k, **options)
    by_k = predicted if isinstance(predicted, dict) else {k: predicted}
    correct = torch.tensor([int((found == query_labels[mine]).sum()) for found in by_k.values()])
    if world and world.world_size > 1:
        correct = gather(correct.to(world.device)).sum(0)
    scores = {number: count / len(query_labels) for number, count in zip(by_k, correct.tolist(), strict=True)}
    return scores if isinstance(predicted, dict) else scores[k]


def _search(features: Array, metric: str, memory: float, device: torch.device | str | None):
    """A function (queries, k) -> squared distances and indices of the k nearest, two tensors (Q, k)."""
    here = features.device if isinstance(features, Tensor) else torch.device("cpu")
    device = torch.device(device) if device is not None else here
    if device.type == "cpu":
        feature_array = _array(features)
        return lambda queries, k: tuple(
            torch.from_numpy(found) for found in cpu.nearest(feature_array, _array(queries), k, metric, memory)
        )
    return lambda queries, k: float64.nearest(features, queries, k, metric, memory / 2, device)


def _array(x: Array) -> np.ndarray:
    """Contiguous float32 or float64 on the CPU; without a copy where it is that already."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x if x.dtype == torch.float64 else x.float()).numpy()
    x = np.asarray(x)
    return np.ascontiguousarray(x if x.dtype == np.float64 else x.astype(np.float32, copy=False))


def _blocks(queries: Array, memory: float, k: int):
    """The queries in as few blocks as half of the memory allows: every block reads all the features once."""
    bytes_a_row = 16 * queries.shape[1] + 64 * (k + 16)
    rows = max(int(memory / 2 / bytes_a_row), 1)
    return (queries[start : start + rows] for start in range(0, len(queries), rows))


class _Votes:
    """Turns neighbours into labels."""

    def __init__(self, labels: Tensor, ks: list[int], vote: str, temperature: float) -> None:
        self.classes, self.class_F = labels.unique(return_inverse=True)  # sorted
        self.none = labels.new_empty(0)
        self.ks, self.weighted, self.temperature = ks, vote == "weighted", temperature

    def __call__(self, square_Qk: Tensor, index_Qk: Tensor) -> dict[int, Tensor]:
        """Labels (Q,) by k, from neighbours (Q, largest k), nearest first."""
        square_Qk, index_Qk = square_Qk.to(self.classes.device), index_Qk.to(self.classes.device)
        blocks = zip(square_Qk.split(_VOTE_ROWS), index_Qk.split(_VOTE_ROWS), strict=True)
        parts = [self._elect(square.double(), self.class_F[index]) for square, index in blocks]
        return {k: self.classes[torch.cat([part[k] for part in parts])] for k in self.ks}

    def _elect(self, square_Qk: Tensor, class_Qk: Tensor) -> dict[int, Tensor]:
        weight_Qk = torch.ones_like(square_Qk)
        if self.weighted:  # divided by the nearest neighbour's weight, which changes no order
            weight_Qk = ((square_Qk[:, :1] - square_Qk) / (2 * self.temperature)).exp()
        votes_QC = weight_Qk.new_zeros(len(square_Qk), len(self.classes))
        order_C = torch.arange(len(self.classes), device=votes_QC.device)
        elected, counted = {}, 0
        for k in self.ks:  # ascending: each adds its neighbours to those before
            votes_QC.scatter_add_(1, class_Qk[:, counted:k], weight_Qk[:, counted:k])
            winner_QC = votes_QC == votes_QC.amax(1, keepdim=True)
            elected[k] = torch.where(winner_QC, order_C, len(order_C)).amin(1)
            counted = k
        return elected


def out_of_range(k: int, features: int) -> UserError:
    """What to say of a k."""
    return UserError(f"k-NN: k is {k}; it must lie between 1 and the number of features, {features}")


def require_memory(memory: float) -> None:
    """Refuses less than the search needs, in bytes."""
    if not memory >= _LEAST_MEMORY:
        raise UserError(f"k-NN: memory is {memory:.3g} bytes; it must be at least {_LEAST_MEMORY:.3g}")


def _check(features, labels, queries, ks: list[int], metric: str, vote: str, temperature: float, memory: float) -> None:
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1]:
        raise UserError(
            f"k-NN: features {tuple(features.shape)} and queries {tuple(queries.shape)}; they must be (F, d) and (Q, d)"
        )
    if labels.shape != features.shape[:1]:
        raise UserError(f"k-NN: {tuple(labels.shape)} labels for {len(features)} features")
    if not ks:
        raise UserError("k-NN: no k is given")
    for k in ks:
        if not 1 <= k <= len(features):
            raise out_of_range(k, len(features))
    if metric not in ("euclidean", "cosine"):
        raise UserError(f"k-NN: metric is {metric!r}; it must be 'euclidean' or 'cosine'")
    if vote not in ("majority", "weighted"):
        raise UserError(f"k-NN: vote is {vote!r}; it must be 'majority' or 'weighted'")
    if not temperature > 0:
        raise UserError(f"k-NN: temperature is {temperature}; it must be more than 0")
    require_memory(memory)
