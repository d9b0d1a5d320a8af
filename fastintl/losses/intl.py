"""INTL: IterNorm with trace loss.

Weng et al., "Modulate Your Spectrum in Self-Supervised Learning", ICLR 2024, arXiv 2305.16789.

Shapes: V views, N samples of the global batch, d channels.
"""

from __future__ import annotations

import math

from torch import Tensor

from fastintl.losses.anchored import AnchoredLoss
from fastintl.losses.whitening import Axis, whiten
from loaders.errors import UserError


class INTLLoss(AnchoredLoss):
    """Mean squared error between views whitened by IterNorm (see ``whiten``), plus the trace loss.

    The equations are those of ``AnchoredLoss``. Computed in float32 (float64 for float64 input) whatever the
    autocast.

    Args:
        iterations: Newton's iterations T.
        axis: "channel" (the paper's default) or "batch" whitening.
        trade_off: beta; None means ``0.01 (log2 n - 3)``, n the batch size (channel axis) or d (batch axis).

    Raises:
        UserError: an argument out of range.
    """

    # Newton's T iterations lift a small eigenvalue by up to 1.5^(2T): a spectrum that is still narrower than this share
    # is out of their reach. Measured on rcfgs/demo.yaml, 300 steps: 0.62 and more; with optim.lr=20 0.40 and more; with
    # loss.trade_off=0, which takes the trace loss away and does collapse, 0.17 at step 30, 0.06 at step 45 and 0.03 at
    # step 120.
    collapsed_share = 0.1

    def __init__(self, iterations: int = 4, axis: Axis = "channel", trade_off: float | None = None) -> None:
        super().__init__(axis)
        if iterations < 1:
            raise UserError(f"INTLLoss: iterations is {iterations}; it must be at least 1")
        self.iterations, self.trade_off = iterations, trade_off

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}, axis={self.axis!r}, trade_off={self.trade_off}"

    def transformed(self, views_VNd: Tensor) -> Tensor:
        return whiten(views_VNd, self.iterations, self.axis)

    def _beta(self, views_VNd: Tensor) -> float:
        if self.trade_off is not None:
            return self.trade_off
        return 0.01 * (math.log2(views_VNd.shape[1 if self.axis == "channel" else 2]) - 3)
