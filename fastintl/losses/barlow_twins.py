"""Barlow Twins: redundancy reduction.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021, arXiv 2103.03230.

Shapes: V views, N samples of the global batch, d channels, P pairs of views.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastintl.losses.base import Loss, result_type
from fastintl.losses.exact_matmul import exact_matmul
from fastintl.losses.whitening import Axis, centre
from loaders.errors import UserError


class BarlowTwinsLoss(Loss):
    """The cross-correlation of two views, driven towards the identity.

    With every channel standardised over the batch (mean 0, variance 1 over N) and ``C = z_1^T z_2 / N`` (d, d):
    ``loss = sum_i (1 - C_ii)^2 + lambd sum_{i != j} C_ij^2``. The paper has two views; of more, the mean over all
    pairs is taken. A channel that is constant over the batch counts as zero and gets no gradient.

    Where N <= d the (d, d) matrix is never formed: ``sum_ij C_ij^2 = <z_1 z_1^T, z_2 z_2^T> / N^2``, two (N, N)
    products; at N = 256, d = 8192 a sixteenth of the work. Products in float32 (float64 for float64 input) whatever
    the autocast, sums in float64.

    Args:
        lambd: weight of the off-diagonal terms, 0.0051 in the paper.

    Raises:
        UserError: a negative weight.
    """

    axis: Axis = "batch"

    def __init__(self, lambd: float = 0.0051) -> None:
        super().__init__()
        if lambd < 0:
            raise UserError(f"BarlowTwinsLoss: lambd is {lambd:g}; it must be 0 or more")
        self.lambd = lambd

    def forward(self, views: Tensor | Sequence[Tensor]) -> Tensor:
        views_VNd = self._stacked(views)
        z_VNd = self.transformed(views_VNd)
        n, d = z_VNd.shape[1:]
        a_PNd, b_PNd = _pairs(z_VNd)
        diagonal_Pd = (a_PNd * b_PNd).sum(-2, dtype=torch.float64) / n
        if n <= d:
            gram_a_PNN, gram_b_PNN = _pairs(exact_matmul(z_VNd, z_VNd.mT))
            all_P = (gram_a_PNN * gram_b_PNN).sum((-2, -1), dtype=torch.float64) / n**2
            off_diagonal_P = all_P - diagonal_Pd.square().sum(-1)
        else:
            c_Pdd = exact_matmul(a_PNd.mT, b_PNd) / n
            c_Pdd = c_Pdd - torch.diag_embed(c_Pdd.diagonal(dim1=-2, dim2=-1))
            off_diagonal_P = c_Pdd.square().sum((-2, -1), dtype=torch.float64)
        loss = ((1 - diagonal_Pd).square().sum(-1) + self.lambd * off_diagonal_P).mean()
        return loss.to(result_type(views_VNd))

    def transformed(self, views_VNd: Tensor) -> Tensor:
        """The embeddings with every channel standardised over the batch, (V, N, d)."""
        dtype = result_type(views_VNd)
        centred_VNd = centre(views_VNd.double(), -2, torch.finfo(dtype).eps)
        variance_V1d = centred_VNd.square().mean(-2, keepdim=True)
        return (centred_VNd * variance_V1d.masked_fill(variance_V1d == 0, torch.inf).rsqrt()).to(dtype)


def _pairs(x_V: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second of every pair of views; stacked, since an index would have to be uploaded."""
    first_P, second_P = zip(*itertools.combinations(x_V.unbind(), 2), strict=True)
    return torch.stack(first_P), torch.stack(second_P)
