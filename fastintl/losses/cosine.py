"""Cosines between the rows of embeddings; that of a zero row is 0, without gradient.

Shapes: N rows, d channels, any dimensions before them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_norms(x_Nd: Tensor) -> Tensor:
    """The squared norms of the rows, (N,) float64, since 2 - 2 cos cancels where views agree and cos is near one."""
    return x_Nd.square().sum(-1, dtype=torch.float64)


def cosine(a_Nd: Tensor, b_Nd: Tensor, norm2_a_N: Tensor, norm2_b_N: Tensor) -> Tensor:
    """The cosines of the rows of ``a`` and ``b``, (N,) float64, given their squared norms."""
    return (a_Nd * b_Nd).sum(-1, dtype=torch.float64) * _inverse_root(norm2_a_N) * _inverse_root(norm2_b_N)


def unit_rows(x_Nd: Tensor) -> Tensor:
    """Every row divided by its norm."""
    return x_Nd * _inverse_root(squared_norms(x_Nd)).to(x_Nd.dtype)[..., None]


def _inverse_root(square_N: Tensor) -> Tensor:
    # Below 1e-12 of the largest row's norm a row counts as zero: its gradient would not fit in float32.
    zero = square_N <= 1e-24 * square_N.detach().amax(-1, keepdim=True)
    return square_N.masked_fill(zero, torch.inf).rsqrt()
