"""k-nearest-neighbour classification of features, exact.

Shapes: Q queries and F features of d channels, C classes; blocks keep the (Q, F) distances out of memory.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from loaders.errors import UserError

Array = TypeVar("Array", np.ndarray, Tensor)

QUERY_BLOCK, FEATURE_BLOCK = 512, 8192


def predict(
    features: Array,
    labels: Array,
    queries: Array,
    k: int = 5,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    vote: Literal["majority", "weighted"] = "majority",
    temperature: float = 0.07,
) -> Array:
    """Predicts the labels of ``queries`` from their k nearest ``features``.

    Distances are computed in float64 and compared after rounding to float32, so that duplicates tie. Equal
    distances go to the smallest index, as a stable sort would have it; equal votes to the smallest label.

    Args:
        features: (F, d), tensor or NumPy array.
        labels: (F,), integers.
        queries: (Q, d).
        k: neighbours that vote.
        metric: "euclidean" (INTL's protocol, on unnormalised features) or "cosine".
        vote: "majority", or "weighted": a neighbour at cosine similarity s counts ``exp(s / temperature)``
            (Wu et al., CVPR 2018). With the Euclidean metric ``1 - distance^2 / 2`` takes the place of s.
        temperature: of the weighted vote.

    Returns:
        (Q,) labels, of the kind, type and device of ``labels``.

    Raises:
        UserError: shapes that do not fit, k out of range, an unknown metric or vote, NaN in the features.
    """
    if isinstance(features, np.ndarray):
        tensors = (torch.from_numpy(np.ascontiguousarray(array)) for array in (features, labels, queries))
        return predict(*tensors, k, metric, vote, temperature).numpy()
    _check(features, labels, queries, k, metric, vote)
    prepare = _normalised if metric == "cosine" else _centred(features)
    classes, class_F = labels.unique(return_inverse=True)  # sorted
    predicted = []
    for block in queries.split(QUERY_BLOCK):
        square_Qk, index_Qk = _nearest(prepare(block), features, prepare, k)
        weight_Qk = torch.ones_like(square_Qk)
        if vote == "weighted":  # divided by the nearest neighbour's weight, which changes no order
            weight_Qk = ((square_Qk[:, :1] - square_Qk) / (2 * temperature)).exp()
        votes_QC = weight_Qk.new_zeros(len(block), len(classes))
        votes_QC.scatter_add_(1, class_F[index_Qk], weight_Qk)
        winner_QC = votes_QC == votes_QC.amax(1, keepdim=True)
        order_C = torch.arange(len(classes), device=votes_QC.device)
        predicted.append(classes[torch.where(winner_QC, order_C, len(classes)).amin(1)])
    return torch.cat(predicted) if predicted else labels.new_empty(0)


def accuracy(features: Array, labels: Array, queries: Array, query_labels: Array, **options) -> float:
    """The fraction of ``queries`` whose label ``predict(features, labels, queries, **options)`` finds."""
    return float((predict(features, labels, queries, **options) == query_labels).sum()) / len(query_labels)


def _nearest(query_Qd: Tensor, features: Tensor, prepare, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances (float64) and indices of the k nearest features, nearest first, both (Q, k)."""
    best = torch.empty(len(query_Qd), 0, dtype=torch.int64, device=query_Qd.device)
    query_square = query_Qd.square().sum(1, keepdim=True)
    for start in range(0, len(features), FEATURE_BLOCK):
        feature_Fd = prepare(features[start : start + FEATURE_BLOCK])
        size = query_square + feature_Fd.square().sum(1)
        square = size - 2 * (query_Qd @ feature_Fd.T)
        square[square < 1e-12 * size] = 0  # a duplicate, but for the rounding of the subtraction
        # One integer orders by distance and then by index: the bits of a float32 >= 0 sort like the number.
        index = torch.arange(start, start + len(feature_Fd), device=square.device)
        key = (square.float().view(torch.int32).long() << 32) | index
        best = torch.cat([best, key], 1)
        best = best.topk(min(k, best.shape[1]), largest=False, sorted=True).values
    return (best >> 32).int().view(torch.float32).double(), best & 0xFFFFFFFF


def _normalised(x: Tensor) -> Tensor:
    """Rows of length one, so that the squared distance is 2 - 2 cos."""
    return torch.nn.functional.normalize(x.double(), dim=1)


def _centred(features: Tensor):
    """Moves the origin to the features' mean: distances stay, cancellation goes."""
    mean = features.mean(0, dtype=torch.float64)
    return lambda x: x.double() - mean


def _check(features: Tensor, labels: Tensor, queries: Tensor, k: int, metric: str, vote: str) -> None:
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1]:
        raise UserError(
            f"k-NN: features {tuple(features.shape)} and queries {tuple(queries.shape)}; they must be (F, d) and (Q, d)"
        )
    if labels.shape != features.shape[:1]:
        raise UserError(f"k-NN: {tuple(labels.shape)} labels for {len(features)} features")
    if not 1 <= k <= len(features):
        raise UserError(f"k-NN: k is {k}; it must lie between 1 and the number of features, {len(features)}")
    if metric not in ("euclidean", "cosine"):
        raise UserError(f"k-NN: metric is {metric!r}; it must be 'euclidean' or 'cosine'")
    if vote not in ("majority", "weighted"):
        raise UserError(f"k-NN: vote is {vote!r}; it must be 'majority' or 'weighted'")
    for name, x in (("features", features), ("queries", queries)):
        if not torch.isfinite(x).all():
            raise UserError(f"k-NN: the {name} hold NaN or infinite values; the network has diverged")
