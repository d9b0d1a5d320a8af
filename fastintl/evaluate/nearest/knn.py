"""k-nearest-neighbour classification of features, exact.

Shapes: Q queries and F features of d channels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    ks = _numbers(k)
    _check(features, labels, queries, ks, metric, vote, temperature, memory)
    search, label_F = _search(features, metric, memory, device), _tensor(labels)
    predicted = _elect(search, _Votes(label_F, ks, vote, temperature), _blocks(queries, memory, ks[-1]), ks[-1])
    if isinstance(labels, np.ndarray):
        predicted = {number: tensor.numpy() for number, tensor in predicted.items()}
    return predicted[ks[0]] if _is_one(k) else predicted


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
    metric: Literal["euclidean", "cosine"] = "euclidean",
    vote: Literal["majority", "weighted"] = "majority",
    temperature: float = 0.07,
    *,
    memory: float = MEMORY,
    device: torch.device | str | None = None,
    world: World | None = None,
    mine: Tensor | None = None,
) -> float | dict[int, float]:
    """The fraction of ``queries`` whose label ``predict`` finds; for several k, a dict of fractions by k.

    Several ranks search a share of the features each, and exchange the nearest that they find; so none needs to hold
    all features. The answer is the same on all.

    Args:
        labels: (F,), of all features.
        query_labels: (Q,), of the kind and on the device of ``labels``.
        world: the ranks. None: this process searches alone.
        mine: (f,) ascending, which of the F features this rank was given, where ``features`` holds no others. Each
            must be with one rank. None: every rank was given all, and searches a part of them.
    """
    ks = _numbers(k)
    if world is None or world.world_size == 1:
        options = {"memory": memory, "device": device}
        by_k = predict(features, labels, queries, ks, metric, vote, temperature, **options)
    else:
        if mine is None:
            first, end = (len(features) * rank // world.world_size for rank in (world.rank, world.rank + 1))
            features, mine = features[first:end], torch.arange(first, end)
        _check(features, mine, queries, ks, metric, vote, temperature, memory, len(labels))
        search = _SharedSearch(_search(features, metric, memory, device), mine, world)
        votes = _Votes(_tensor(labels), ks, vote, temperature)
        by_k = _elect(search, votes, _blocks(queries, memory, ks[-1] * world.world_size), ks[-1])
        query_labels = _tensor(query_labels)
    scores = {number: int((found == query_labels).sum()) / len(query_labels) for number, found in by_k.items()}
    return scores[ks[0]] if _is_one(k) else scores


def _is_one(k: int | Iterable[int]) -> bool:
    return isinstance(k, int | np.integer)


def _numbers(k: int | Iterable[int]) -> list[int]:
    return [int(k)] if _is_one(k) else sorted({int(number) for number in k})


def _tensor(x: Array) -> Tensor:
    # Copied: arrays mapped from a file may be read-only, which torch has no notion of.
    return torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x


def _elect(search, votes: _Votes, blocks: Iterable[Array], k: int) -> dict[int, Tensor]:
    """Labels (Q,) of the queries in ``blocks``, by the number of neighbours that vote, of which k is the largest."""
    found = {number: [] for number in votes.ks}
    for block in blocks:
        for number, part in votes(*search(block, k)).items():
            found[number].append(part)
    return {number: torch.cat(parts) if parts else votes.none for number, parts in found.items()}


class _SharedSearch:
    """The k nearest of the features of all ranks: each ranks its own, and those found are merged.

    Args:
        search: as ``_search`` gives it, among this rank's features.
        mine: (f,), which those are of all.
    """

    def __init__(self, search, mine: Tensor, world: World) -> None:
        self.search, self.world = search, world
        self.mine = mine.to(world.device)

    def __call__(self, queries: Array, k: int) -> tuple[Tensor, Tensor]:
        # A distance and an index in one number: equal distances are in the order of their indices.
        key_Qk = self.mine.new_full((len(queries), k), torch.iinfo(torch.int64).max)
        if near := min(k, len(self.mine)):
            square_Qn, index_Qn = (x.to(self.world.device) for x in self.search(queries, near))
            bits_Qn = square_Qn.float().abs().view(torch.int32).long()  # abs(): of -0, whose bits are not those of 0
            key_Qk[:, :near] = bits_Qn << 32 | self.mine[index_Qn]
        key_Qk = gather(key_Qk).transpose(0, 1).flatten(1).sort(dim=1).values[:, :k]
        return (key_Qk >> 32).int().view(torch.float32), key_Qk & 0xFFFFFFFF


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


def _check(
    features: Array,
    labels: Array,
    queries: Array,
    ks: list[int],
    metric: str,
    vote: str,
    temperature: float,
    memory: float,
    count: int | None = None,
) -> None:
    """Refuses arguments that do not fit, see ``predict``.

    Args:
        labels: (f,) of the features, or which of all each of them is.
        count: of all features, where ``features`` is a part of them.
    """
    count = len(features) if count is None else count
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1]:
        raise UserError(
            f"k-NN: features {tuple(features.shape)} and queries {tuple(queries.shape)}; they must be (F, d) and (Q, d)"
        )
    if labels.shape != features.shape[:1]:
        raise UserError(f"k-NN: {tuple(labels.shape)} labels for {len(features)} features")
    if not ks:
        raise UserError("k-NN: no k is given")
    for k in ks:
        if not 1 <= k <= count:
            raise out_of_range(k, count)
    if metric not in ("euclidean", "cosine"):
        raise UserError(f"k-NN: metric is {metric!r}; it must be 'euclidean' or 'cosine'")
    if vote not in ("majority", "weighted"):
        raise UserError(f"k-NN: vote is {vote!r}; it must be 'majority' or 'weighted'")
    if not temperature > 0:
        raise UserError(f"k-NN: temperature is {temperature}; it must be more than 0")
    require_memory(memory)
