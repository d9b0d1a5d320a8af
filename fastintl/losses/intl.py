"""INTL: IterNorm with trace loss; and the frame that it shares with other spectral transformations.

Weng et al., "Modulate Your Spectrum in Self-Supervised Learning", ICLR 2024, arXiv 2305.16789.

Shapes: V views, N samples of the global batch, d channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastintl.losses.base import Loss, result_type
from fastintl.losses.cosine import cosine, squared_norms
from fastintl.losses.whitening import Axis, whiten
from loaders.errors import UserError


class AnchoredLoss(Loss):
    """Mean squared error between transformed views, plus the trace loss; a subclass defines ``transformed``, ``_beta``.

    With ``w`` a transformed view, ``mse(a, b) = 2 - 2 mean_i cos(a_i, b_i)`` over the rows, ``v_i`` the unbiased
    variance of sample i over its channels (``axis="batch"``: of channel i over the batch) and
    ``TL = sum_i (v_i - 1)^2``:

    - without target, view 0 is the anchor: ``1/(V-1) sum_{i>=1} [mse(w_i, w_0) + beta (TL_i + TL_0)]``;
    - with the EMA target ``t``: ``1/V sum_i [mse(w_i, w_t) + beta TL_i]``; no gradient flows into the target.

    A sample whose transformed embedding is zero has cosine 0 and no gradient.

    Raises:
        UserError: an unknown axis.
    """

    against_collapse = "raise loss.trade_off or lower optim.lr"

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        if axis not in ("channel", "batch"):
            raise UserError(f"{self._name}: axis is {axis!r}; it must be 'channel' or 'batch'")
        self.axis = axis

    def forward(self, views: Tensor | Sequence[Tensor], target: Tensor | None = None) -> Tensor:
        """The loss of the embeddings of all views.

        Args:
            views: embeddings of the online encoder over the global batch, (V, N, d) or a sequence of (N, d).
            target: embedding of the EMA encoder, (N, d).

        Returns:
            The loss, a scalar.

        Raises:
            UserError: shapes that do not fit, one view without target, under two samples or channels.
        """
        views_VNd = self._checked(views, target)
        alignment, trace = self._alignment_and_trace(views_VNd, target)
        return (alignment + self._beta(views_VNd) * trace).to(result_type(views_VNd))

    def parts(self, views: Tensor | Sequence[Tensor], target: Tensor | None = None) -> dict[str, Tensor]:
        """``alignment``, the mean squared error, and ``trace``, the weighted trace loss: the loss is their sum."""
        views_VNd = self._checked(views, target)
        alignment, trace = self._alignment_and_trace(views_VNd, target)
        return {"alignment": alignment, "trace": self._beta(views_VNd) * trace}

    def _checked(self, views: Tensor | Sequence[Tensor], target: Tensor | None) -> Tensor:
        """The views as one tensor, (V, N, d), of the target's shape."""
        views_VNd = self._stacked(views, fewest=2 if target is None else 1)
        if target is not None and target.shape != views_VNd.shape[1:]:
            raise UserError(
                f"{self._name}: the target has shape {tuple(target.shape)}; the views ask for "
                f"{tuple(views_VNd.shape[1:])}"
            )
        return views_VNd

    def _alignment_and_trace(self, views_VNd: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean squared error, and the trace loss without its weight."""
        # The target's view is transformed beside the others: half the launches, for a sixth more to compute.
        together = views_VNd if target is None else torch.cat([views_VNd, target.detach()[None]])
        every_w_VNd = self.transformed(together)
        every_norm2_VN = squared_norms(every_w_VNd)
        w_VNd, norm2_VN = every_w_VNd[: len(views_VNd)], every_norm2_VN[: len(views_VNd)]
        trace_V = self._trace_loss(w_VNd, norm2_VN)
        if target is None:
            cosines = cosine(w_VNd[1:], w_VNd[:1], norm2_VN[1:], norm2_VN[:1])
            return 2 - 2 * cosines.mean(), trace_V[1:].mean() + trace_V[0]
        cosines = cosine(w_VNd, every_w_VNd[-1:].detach(), norm2_VN, every_norm2_VN[-1:].detach())
        return 2 - 2 * cosines.mean(), trace_V.mean()

    if TYPE_CHECKING:

        def __call__(self, views: Tensor | Sequence[Tensor], target: Tensor | None = None) -> Tensor: ...

    def _trace_loss(self, w_VNd: Tensor, norm2_VN: Tensor) -> Tensor:
        """TL of each view, (V,). A spectral transformation keeps the mean zero, so squares alone give the variance."""
        over_channels = self.axis == "channel"
        length = w_VNd.shape[-1 if over_channels else -2]
        sum_of_squares = norm2_VN if over_channels else w_VNd.square().sum(-2, dtype=torch.float64)
        return (sum_of_squares / (length - 1) - 1).square().sum(-1)

    def _beta(self, views_VNd: Tensor) -> float:
        """The weight beta of the trace loss."""
        raise NotImplementedError


class INTLLoss(AnchoredLoss):
    """Mean squared error between views whitened by IterNorm (see ``whiten``), plus the trace loss.

    The equations are those of ``AnchoredLoss``. Computed in float32 (float64 for float64 input) whatever the
    autocast.

    Args:
        iterations: Newton's iterations T.
        axis: "channel" (the paper's default) or "batch" whitening.
        trade_off: beta; None means ``0.01 (log2 n - 3)``, n the batch size (channel axis) or d (batch axis): made for
            an n of more than 8, and told where it is not.

    Raises:
        UserError: an argument out of range.
    """

    # Newton's T iterations lift a small eigenvalue by up to 1.5^(2T): a spectrum that is still narrower than this share
    # is out of their reach. Measured on rcfgs/demo.yaml, 300 steps: 0.62 and more; with optim.lr=20 0.40 and more; with
    # loss.trade_off=0, which takes the trace loss away and does collapse, 0.17 at step 30, 0.06 at step 45 and 0.03 at
    # step 120.
    collapsed_share = 0.1
    compiles = True

    def __init__(self, iterations: int = 4, axis: Axis = "channel", trade_off: float | None = None) -> None:
        super().__init__(axis)
        if iterations < 1:
            raise UserError(f"INTLLoss: iterations is {iterations}; it must be at least 1")
        self.iterations, self.trade_off = iterations, trade_off

    def transformed(self, views_VNd: Tensor) -> Tensor:
        return whiten(views_VNd, self.iterations, self.axis)

    def weakness(self, samples: int, channels: int) -> str | None:
        beta = self._trade_off(samples, channels)
        if self.trade_off is not None or beta > 0:
            return None
        n, cure = f"{samples} samples a step", "train.batch_size"
        if self.axis == "batch":
            n, cure = f"{channels} channels", "the last width of model.projector"
        harm = "which rewards collapse" if beta < 0 else "so that nothing keeps the embedding from collapsing"
        return (
            f"INTLLoss: the weight of the trace loss, 0.01 (log2 n - 3), is {beta:.2g} at n = {n}, {harm}: "
            f"raise {cure} beyond 8, or set loss.trade_off (0.05 is that of 256)"
        )

    def _beta(self, views_VNd: Tensor) -> float:
        return self._trade_off(*views_VNd.shape[1:])

    def _trade_off(self, samples: int, channels: int) -> float:
        if self.trade_off is not None:
            return self.trade_off
        return 0.01 * (math.log2(samples if self.axis == "channel" else channels) - 3)
