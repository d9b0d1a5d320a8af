"""A function of a symmetric matrix through its eigenvalues, with a gradient that stays finite where they are equal.

Shapes: B matrices, m rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The resolution of float32 embeddings. The covariance is their square, so this squared, times the rows, is the share of
# the largest eigenvalue below which there is only rounding.
_RESOLUTION = torch.finfo(torch.float32).eps


class Spectral(Protocol):
    """A function g of single eigenvalues."""

    def __call__(self, values: Tensor) -> Tensor:
        """g of positive eigenvalues, of any shape."""

    def divided_difference(self, high: Tensor, low: Tensor) -> Tensor:
        """``(g(high) - g(low)) / (high - low)`` where ``high >= low > 0``, and g' where they are equal."""


class InversePower:
    """``g(l) = l^-p``; p = 1/2 is hard whitening, p = 0 the identity.

    With ``r = (high - low) / low`` the divided difference is ``low^(-p-1) expm1(-p log1p(r)) / r``: neither expm1 nor
    log1p cancels, and a difference of two close numbers is exact, so it is as precise for close eigenvalues as for
    distant ones. (For p = 1/2 it equals ``-1 / (sqrt(high) sqrt(low) (sqrt(high) + sqrt(low)))``.)
    """

    def __init__(self, power: float) -> None:
        self.power = power

    def __call__(self, values: Tensor) -> Tensor:
        return values**-self.power

    def divided_difference(self, high: Tensor, low: Tensor) -> Tensor:
        ratio = (high - low) / low
        slope = torch.where(ratio == 0, -self.power, torch.expm1(-self.power * ratio.log1p()) / ratio)
        return low ** (-self.power - 1) * slope


class Elementwise:
    """Any g, as a function that torch can differentiate, from eigenvalues to values of the same shape.

    Close eigenvalues, whose quotient would cancel, take g' half-way between them. Their distance at which both are
    wrong by about as much is the third root of the resolution: the error is some 1e-10 of g at worst.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, values: Tensor) -> Tensor:
        return self.function(values)

    def divided_difference(self, high: Tensor, low: Tensor) -> Tensor:
        close = high - low <= torch.finfo(high.dtype).eps ** (1 / 3) * high
        quotient = (self(high) - self(low)) / (high - low).masked_fill(close, 1)
        return torch.where(close, self._derivative((high + low) / 2), quotient)

    @torch.enable_grad()
    def _derivative(self, values: Tensor) -> Tensor:
        values = values.detach().requires_grad_()
        result = self.function(values).sum()
        if not result.requires_grad:  # a constant function
            return torch.zeros_like(values)
        return torch.autograd.grad(result, values)[0]


def matrix_function(sigma_Bmm: Tensor, function: Spectral) -> Tensor:
    """``U g(Lambda) U^T`` of positive semidefinite matrices ``U Lambda U^T``, differentiable once.

    The gradient is that of Daleckii and Krein: with ``G`` the gradient of the result, made symmetric, that of the
    matrix is ``U (K o U^T G U) U^T`` with the divided differences ``K_ij = (g(l_i) - g(l_j)) / (l_i - l_j)`` and
    ``K_ii = g'(l_i)``. The gradient of an eigendecomposition itself divides by ``l_i - l_j`` and has no limit for
    equal eigenvalues; K has one, g', and every ``Spectral`` takes it without a division by the difference.

    Eigenvalues that are zero to within rounding are left out: there ``g = 0``, as in a pseudo-inverse, and so
    ``K = g(l_j) / l_j`` between such a one and another. So singular matrices give finite values and gradients. A
    matrix with an entry that is not finite gives NaN, where LAPACK would raise.

    Computed in float64, since a covariance squares the range of the embedding's singular values; the matrices are
    small. On a GPU torch.linalg.eigh waits for the device, to read whether it converged.

    Args:
        sigma_Bmm: covariances, float64.
    """
    return _MatrixFunction.apply(sigma_Bmm, function)


class _MatrixFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sigma: Tensor, function: Spectral) -> Tensor:
        finite_B11 = sigma.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        values, vectors = torch.linalg.eigh(sigma.masked_fill(~finite_B11, 0))
        null = values <= sigma.shape[-1] * _RESOLUTION**2 * values[:, -1:]
        values = values.masked_fill(null, 1)
        results = function(values).masked_fill(null, 0)
        ctx.function = function
        ctx.save_for_backward(values, vectors, results, null)
        return ((vectors * results[:, None]) @ vectors.mT).masked_fill(~finite_B11, torch.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        values, vectors, results, null = ctx.saved_tensors
        rows, columns = values[:, :, None], values[:, None]
        k = ctx.function.divided_difference(torch.maximum(rows, columns), torch.minimum(rows, columns))
        ratio = results / values  # zero where the eigenvalue is left out
        k = torch.where(null[:, :, None] | null[:, None], ratio[:, :, None] + ratio[:, None], k)
        k = k.masked_fill(null[:, :, None] & null[:, None], 0)
        inner = vectors.mT @ ((grad + grad.mT) / 2) @ vectors
        return vectors @ (k * inner) @ vectors.mT, None
