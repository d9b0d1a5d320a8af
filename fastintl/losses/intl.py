"""INTL: IterNorm with trace loss.

Weng et al., "Modulate Your Spectrum in Self-Supervised Learning", ICLR 2024, arXiv 2305.16789.

Shapes: V views, N samples of the global batch, d channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastintl.losses.whitening import Axis, whiten
from loaders.errors import UserError


class INTLLoss(nn.Module):
    """Mean squared error between whitened views, plus the trace loss.

    With ``w`` a whitened view (see ``whiten``), ``mse(a, b) = 2 - 2 mean_i cos(a_i, b_i)`` over the rows,
    ``v_i`` the unbiased variance of sample i over its channels (``axis="batch"``: of channel i over the
    batch) and ``TL = sum_i (v_i - 1)^2``:

    - without target, view 0 is the anchor: ``1/(V-1) sum_{i>=1} [mse(w_i, w_0) + beta (TL_i + TL_0)]``;
    - with the EMA target ``t``: ``1/V sum_i [mse(w_i, w_t) + beta TL_i]``; no gradient flows into the target.

    Computed in float32 (float64 for float64 input) whatever the autocast. A sample whose whitened embedding
    is zero has cosine 0 and no gradient.

    Args:
        iterations: Newton's iterations T.
        axis: "channel" (the paper's default) or "batch" whitening.
        trade_off: beta; None means ``0.01 (log2 n - 3)``, n the batch size (channel axis) or d (batch axis).

    Raises:
        UserError: an argument out of range.
    """

    def __init__(self, iterations: int = 4, axis: Axis = "channel", trade_off: float | None = None) -> None:
        super().__init__()
        if axis not in ("channel", "batch"):
            raise UserError(f"INTLLoss: axis is {axis!r}; it must be 'channel' or 'batch'")
        if iterations < 1:
            raise UserError(f"INTLLoss: iterations is {iterations}; it must be at least 1")
        self.iterations, self.axis, self.trade_off = iterations, axis, trade_off

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}, axis={self.axis!r}, trade_off={self.trade_off}"

    def forward(self, views: Tensor | Sequence[Tensor], target: Tensor | None = None) -> Tensor:
        """Args:
            views: embeddings of the online encoder over the global batch, (V, N, d) or a sequence of (N, d).
            target: embedding of the EMA encoder, (N, d).

        Returns:
            The loss, a scalar.

        Raises:
            UserError: shapes that do not fit, one view without target, under two samples or channels.
        """
        views_VNd = views if isinstance(views, Tensor) else torch.stack(tuple(views))
        _check_shapes(views_VNd, target)
        w_VNd = whiten(views_VNd, self.iterations, self.axis)
        square_VNd = w_VNd.square()
        # Sums along rows accumulate in float64: where views agree, cos is near one and 2 - 2 cos cancels.
        norm2_VN = square_VNd.sum(-1, dtype=torch.float64)
        trace_V = self._trace_loss(square_VNd, norm2_VN)
        beta = self._beta(views_VNd)
        if target is None:
            cosine = _cosine(w_VNd[1:], w_VNd[:1], norm2_VN[1:], norm2_VN[:1])
            loss = 2 - 2 * cosine.mean() + beta * (trace_V[1:].mean() + trace_V[0])
        else:
            t_1Nd = whiten(target.detach()[None], self.iterations, self.axis)
            cosine = _cosine(w_VNd, t_1Nd, norm2_VN, t_1Nd.square().sum(-1, dtype=torch.float64))
            loss = 2 - 2 * cosine.mean() + beta * trace_V.mean()
        return loss.to(w_VNd.dtype)

    def _trace_loss(self, square_VNd: Tensor, norm2_VN: Tensor) -> Tensor:
        """(V,). Whitening is linear and keeps the mean zero, so the sum of squares is the variance's."""
        over_channels = self.axis == "channel"
        length = square_VNd.shape[-1 if over_channels else -2]
        sum_of_squares = norm2_VN if over_channels else square_VNd.sum(-2, dtype=torch.float64)
        return (sum_of_squares / (length - 1) - 1).square().sum(-1)

    def _beta(self, views_VNd: Tensor) -> float:
        if self.trade_off is not None:
            return self.trade_off
        return 0.01 * (math.log2(views_VNd.shape[1 if self.axis == "channel" else 2]) - 3)


def _cosine(a: Tensor, b: Tensor, norm2_a: Tensor, norm2_b: Tensor) -> Tensor:
    """Cosines of the rows of ``a`` and ``b``, given their squared norms; 0 where a row is zero."""
    return (a * b).sum(-1, dtype=torch.float64) * _inverse_root(norm2_a) * _inverse_root(norm2_b)


def _inverse_root(square: Tensor) -> Tensor:
    # Rows are of order one. Below 1e-12 of that a row counts as zero: its gradient would not fit in float32.
    zero = square <= 1e-24
    return square.masked_fill(zero, torch.inf).rsqrt()


def _check_shapes(views: Tensor, target: Tensor | None) -> None:
    shape = tuple(views.shape)
    if views.ndim != 3 or min(shape) < 1:
        raise UserError(f"INTLLoss: views have shape {shape}; they must be (V, N, d) or a list of (N, d)")
    if target is not None and tuple(target.shape) != shape[1:]:
        raise UserError(f"INTLLoss: the target has shape {tuple(target.shape)}; the views ask for {shape[1:]}")
    if target is None and shape[0] < 2:
        raise UserError("INTLLoss: one view without target; give two or more views, or a target")
    if shape[1] < 2 or shape[2] < 2:
        raise UserError(f"INTLLoss: {shape[1]} samples of {shape[2]} channels; it needs two or more of each")
