"""Spectral transformations: a function of the covariance's eigenvalues in the place of INTL's Newton iterations.

Weng et al., "Modulate Your Spectrum in Self-Supervised Learning", ICLR 2024, arXiv 2305.16789, section 3.

Shapes: V views, N samples of the global batch, d channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fastintl.losses.base import result_type
from fastintl.losses.intl import AnchoredLoss
from fastintl.losses.matrix_function import Elementwise, InversePower, Spectral, matrix_function
from fastintl.losses.whitening import Axis, centre
from loaders.errors import UserError

Transform = Literal["whiten", "power"]


class SpectralLoss(AnchoredLoss):
    """Mean squared error between views whose spectrum is transformed by g, plus the trace loss.

    The equations are those of ``AnchoredLoss``. With ``Sigma = U Lambda U^T`` the covariance of ``axis`` (see
    ``whiten``) a view becomes ``U g(Lambda) U^T xc`` (``axis="batch"``: ``xc U g(Lambda) U^T``), and its covariance's
    eigenvalue l becomes ``l g(l)^2``.

    Args:
        transform: "whiten", hard (ZCA) whitening, ``g(l) = l^-1/2``; "power", ``g(l) = l^-p``; or g itself, a
            function of a tensor of eigenvalues that torch can differentiate.
        power: the power p of the transform "power".
        axis: "channel" or "batch".
        trade_off: weight of the trace loss; None means 0.

    Raises:
        UserError: an argument out of range, or a power beside another transform.
    """

    def __init__(
        self,
        transform: Transform | Callable[[Tensor], Tensor] = "whiten",
        power: float = 0.5,
        axis: Axis = "channel",
        trade_off: float | None = None,
    ) -> None:
        super().__init__(axis)
        if transform not in ("whiten", "power") and not callable(transform):
            raise UserError(f"SpectralLoss: transform is {transform!r}; it must be 'whiten', 'power' or a function")
        if transform != "power" and power != 0.5:
            raise UserError(f"SpectralLoss: power is {power:g}, which only loss.transform=power reads")
        self.transform, self.power, self.trade_off = transform, power, trade_off
        self.function: Spectral = Elementwise(transform) if callable(transform) else InversePower(power)

    def transformed(self, views_VNd: Tensor) -> Tensor:
        """The transformed views, (V, N, d) float64.

        ``Phi(x x^T) x = x Phi(x^T x)``, so the smaller of the two products is decomposed.
        """
        dim = -1 if self.axis == "channel" else -2
        xc_VNd = centre(views_VNd.double(), dim, torch.finfo(result_type(views_VNd)).eps)
        n, d = xc_VNd.shape[-2:]
        freedom = xc_VNd.shape[dim] - 1
        if n <= d:
            return matrix_function(xc_VNd @ xc_VNd.mT / freedom, self.function) @ xc_VNd
        return xc_VNd @ matrix_function(xc_VNd.mT @ xc_VNd / freedom, self.function)

    def _beta(self, views_VNd: Tensor) -> float:
        return self.trade_off or 0.0
