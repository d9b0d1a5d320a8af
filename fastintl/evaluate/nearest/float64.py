"""The k nearest features by blocked products in float64, on any device.

Shapes: Q queries and F features of d channels; blocks keep the (Q, F) distances out of memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from loaders.errors import UserError
from loaders.upload import upload

# A squared distance shorter than this, relative to the vectors' squared lengths, counts as zero: it is what is left
# between two equal vectors after the rounding of a float64 product.
NO_DISTANCE = 1e-12
_QUERY_ROWS = 512
_MAX_FEATURE_ROWS = 8192


Matrix = Tensor | np.ndarray


def nearest(
    features: Matrix, queries: Matrix, k: int, metric: str, memory: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The k nearest features of each query, nearest first, equally near ones by index.

    Args:
        features: (F, d), of any float type, in the machine's memory, mapped from a file, or on ``device``.
        queries: (Q, d), likewise.
        metric: "euclidean" or "cosine".
        memory: bytes to use on ``device``, beside the arrays given.

    Returns:
        Squared distances in float64 rounded to float32, and indices in int64, both (Q, k), on ``device``. With the
        cosine metric they are those of the vectors of length one, ``2 - 2 cos``.

    Raises:
        UserError: NaN or infinity in the features or queries.
    """
    prepare = _normalised if metric == "cosine" else _centred(features, device)
    query_Qd = _double(queries, device)
    _require(torch.isfinite(query_Qd).all(), "queries")
    query_Qd = prepare(query_Qd)
    best = torch.empty(len(query_Qd), 0, dtype=torch.int64, device=device)
    rows = feature_rows(memory, query_Qd.shape[1])
    finite = torch.ones((), dtype=torch.bool, device=device)
    for start in range(0, len(features), rows):
        feature_Fd = _double(features[start : start + rows], device)
        finite &= torch.isfinite(feature_Fd).all()  # looked at in the end: until then nobody waits for the device
        feature_Fd = prepare(feature_Fd)
        blocks = zip(query_Qd.split(_QUERY_ROWS), best.split(_QUERY_ROWS), strict=True)
        best = torch.cat([_merge(block, feature_Fd, start, found, k) for block, found in blocks])
    _require(finite, "features")
    return (best >> 32).int().view(torch.float32), best & 0xFFFFFFFF


def feature_rows(memory: float, channels: int) -> int:
    """Features in a block, so that it and its distances to a block of queries take at most ``memory``."""
    bytes_a_row = 8 * (3 * channels + 5 * _QUERY_ROWS)
    return int(min(max(memory // bytes_a_row, 16), _MAX_FEATURE_ROWS))


def _require(finite: Tensor, name: str) -> None:
    if not finite:
        raise UserError(f"k-NN: the {name} hold NaN or infinite values; the network has diverged")


def _merge(query_Qd: Tensor, feature_Fd: Tensor, start: int, best: Tensor, k: int) -> Tensor:
    """The k best of the keys found so far, (Q, up to k), and those of a block of features."""
    size = query_Qd.square().sum(1, keepdim=True) + feature_Fd.square().sum(1)
    square = size - 2 * (query_Qd @ feature_Fd.T)
    square[square < NO_DISTANCE * size] = 0
    # One integer orders by distance and then by index: the bits of a float32 >= 0 sort like the number.
    index = torch.arange(start, start + len(feature_Fd), device=square.device)
    best = torch.cat([best, (square.float().view(torch.int32).long() << 32) | index], 1)
    return best.topk(min(k, best.shape[1]), largest=False, sorted=True).values


def _double(x: Matrix, device: torch.device) -> Tensor:
    """Float64 on the device: what crosses over is as wide as it was stored."""
    return (upload([x], device)[0] if isinstance(x, np.ndarray) else x.to(device)).double()


def _normalised(x: Tensor) -> Tensor:
    """Rows of length one, so that the squared distance is 2 - 2 cos."""
    return torch.nn.functional.normalize(x, dim=1)


def _centred(features: Matrix, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Moves the origin into the features' middle: distances stay, cancellation goes."""
    mean = _double(features[:: max(1, len(features) // 1024)], device).mean(0)
    return lambda x: x - mean
