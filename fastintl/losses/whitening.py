"""Iterative normalisation (IterNorm): whitening by Newton's iterations, all views in one batched product.

Huang et al., "Iterative Normalization", CVPR 2019; used by INTL (arXiv 2305.16789, section 4).

Shapes: V views, N samples of the global batch, d channels, m = min(N, d).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fastintl.losses.exact_matmul import exact_matmul

Axis = Literal["channel", "batch"]


def whiten(views_VNd: Tensor, iterations: int = 4, axis: Axis = "channel") -> Tensor:
    """Whitens each view by IterNorm.

    ``axis="channel"`` centres every sample over its own channels and whitens with the (N, N) covariance
    ``Sigma = xc xc^T / (d - 1)``: the output is ``W xc``. ``axis="batch"`` centres every channel over the
    batch and whitens with the (d, d) covariance ``Sigma = xc^T xc / (N - 1)``: the output is ``xc W``. With
    ``S = Sigma / tr(Sigma)`` and ``P_0 = I``, Newton's iteration is ``P_k = 1.5 P_{k-1} - 0.5 P_{k-1}^3 S``
    and ``W = P_T / sqrt(tr(Sigma))``.

    How it is computed. With ``u = xc / |xc|`` (Frobenius norm) ``S = u u^T`` has trace one, and the output is
    ``sqrt(d - 1) P_T u``: the scale of the embedding never enters, so nothing overflows or needs an epsilon.
    ``P_T`` is a polynomial ``p(S)``, and ``p(u u^T) u = u p(u^T u)``, so both axes iterate on the smaller of
    the (N, N) and the (d, d) product. All of it is float32 (float64 for float64 input), also inside autocast.

    A row (of the centred axis) that is constant to within the rounding of its own mean carries nothing but
    rounding noise; it is whitened to zero and gets no gradient.

    Args:
        views_VNd: embeddings, (V, N, d), any floating type.
        iterations: T, at least 1.
        axis: what a whitened row is decorrelated over, see above.

    Returns:
        The whitened views, (V, N, d), float32 or float64.
    """
    dim = -1 if axis == "channel" else -2
    views_VNd = views_VNd if views_VNd.dtype == torch.float64 else views_VNd.float()
    unit_VNd = _unit(centre(views_VNd, dim, torch.finfo(views_VNd.dtype).eps))
    n, d = unit_VNd.shape[-2:]
    if n <= d:
        whitened_VNd = exact_matmul(_newton(exact_matmul(unit_VNd, unit_VNd.mT), iterations), unit_VNd)
    else:
        whitened_VNd = exact_matmul(unit_VNd, _newton(exact_matmul(unit_VNd.mT, unit_VNd), iterations))
    return whitened_VNd * math.sqrt(views_VNd.shape[dim] - 1)


def centre(x_VNd: Tensor, dim: int, resolution: float) -> Tensor:
    """Makes the mean along ``dim`` zero; rows that are constant to within ``resolution`` of their mean become zero."""
    mean = x_VNd.mean(dim, keepdim=True)
    centred = x_VNd - mean
    # The first mean is rounded to the size of x, not to that of xc: take the rest away.
    centred = centred - centred.mean(dim, keepdim=True)
    spread = centred.detach().abs().amax(dim, keepdim=True)
    return centred.masked_fill(spread <= resolution * mean.detach().abs(), 0)


def _unit(centred_VNd: Tensor) -> Tensor:
    """Scales each view to Frobenius norm one, unless it is all zero."""
    # The output does not depend on the scale of a view, so the scale is a constant for the gradient.
    largest = centred_VNd.detach().abs().amax((-2, -1), keepdim=True)
    scaled_VNd = centred_VNd / largest.masked_fill(largest == 0, 1)
    square = scaled_VNd.square().sum((-2, -1), keepdim=True, dtype=torch.float64)  # at least one, or zero
    return scaled_VNd / square.clamp(min=1).sqrt().to(scaled_VNd.dtype)


def _newton(s_Vmm: Tensor, iterations: int) -> Tensor:
    """``P_T`` from the trace-normalised covariance S. All factors are polynomials of S, so they commute."""
    p_Vmm = 1.5 * torch.eye(s_Vmm.shape[-1], dtype=s_Vmm.dtype, device=s_Vmm.device) - 0.5 * s_Vmm
    for _ in range(iterations - 1):
        cubed_Vmm = exact_matmul(exact_matmul(p_Vmm, p_Vmm), p_Vmm)
        p_Vmm = 1.5 * p_Vmm - 0.5 * exact_matmul(cubed_Vmm, s_Vmm)
    return p_Vmm
