"""The spectrum of an embedding: eigenvalues of the covariance that the loss whitens, before and after whitening.

Modulating this spectrum is what INTL does (arXiv 2305.16789, section 3).

Shapes: N samples of the global batch, d channels, r eigenvalues that centring leaves free.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastintl.losses.whitening import Axis


def eigenvalues(z_Nd: Tensor, axis: Axis = "channel") -> Tensor:
    """Eigenvalues of the covariance ``Sigma`` of ``whiten``, largest first, those that centring makes zero left out.

    The (N, N) and the (d, d) product of the centred embedding have the same eigenvalues but for zeros, so the
    smaller one is decomposed, in float64: N = 256 samples of d = 8192 channels take a 256 x 256 matrix.

    Args:
        z_Nd: embedding of one view, finite.
        axis: "channel": every sample centred over its channels, ``r = min(N, d - 1)``;
            "batch": every channel centred over the samples, ``r = min(N - 1, d)``.

    Returns:
        (r,) float64, on the device of ``z_Nd``.
    """
    dim = -1 if axis == "channel" else -2
    n, d = z_Nd.shape
    length, others = (d, n) if axis == "channel" else (n, d)
    z_Nd = z_Nd.double()
    centred_Nd = z_Nd - z_Nd.mean(dim, keepdim=True)
    product = centred_Nd @ centred_Nd.mT if n <= d else centred_Nd.mT @ centred_Nd
    ascending = torch.linalg.eigvalsh(product / (length - 1))
    return ascending.flip(0)[: min(length - 1, others)].clamp(min=0)


def whitened(values_r: Tensor, iterations: int) -> Tensor:
    """The eigenvalues after IterNorm, in the same order.

    Newton's iterates are polynomials of the covariance and so act on each eigenvalue alone: with its share
    ``s = lambda / tr(Sigma)``, ``p_0 = 1`` and ``p_k = 1.5 p_{k-1} - 0.5 p_{k-1}^3 s``, the covariance of the
    whitened embedding has the eigenvalue ``s p_T^2``.
    """
    share_r = values_r / values_r.sum().clamp(min=torch.finfo(values_r.dtype).tiny)
    p_r = torch.ones_like(share_r)
    for _ in range(iterations):
        p_r = 1.5 * p_r - 0.5 * p_r**3 * share_r
    return share_r * p_r**2


def effective_rank(values_r: Tensor) -> float:
    """``exp`` of the entropy of the normalised eigenvalues (Roy & Vetterli, EUSIPCO 2007): 1 to r.

    One eigenvalue alone gives 1, r equal ones give r. Zeros only give 0.
    """
    total = values_r.sum()
    if total == 0:
        return 0.0
    return torch.special.entr(values_r / total).sum().exp().item()


def condition_number(values_r: Tensor) -> float:
    """Largest by smallest eigenvalue; at most ``1 / (r eps)``, where float64 cannot tell the smallest from zero."""
    largest = values_r[0].item()
    resolution = len(values_r) * torch.finfo(values_r.dtype).eps
    return largest / max(values_r[-1].item(), largest * resolution) if largest else 1 / resolution
