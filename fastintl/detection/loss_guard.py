"""The losses between two log steps, read all at once: a step waits for no device."""

from __future__ import annotations

import math

from torch import Tensor

from fastintl.distributed.agreement import Agreement


class LossWatch:
    """Sums the losses of the steps on the device; every rank sees and checks at the same steps."""

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._sum: Tensor | None = None
        self._steps = 0

    def see(self, losses: Tensor) -> None:
        """Adds a step's losses, detached."""
        self._sum = losses if self._sum is None else self._sum + losses
        self._steps += 1

    def check(self, step: int) -> list[float]:
        """The means since the last check; waits for the device. Empty where there was no step.

        Raises:
            UserError: one of a rank's losses is no longer a number.
        """
        means = (self._sum / self._steps).tolist() if self._steps else []
        self._sum, self._steps = None, 0
        if self._agreement.largest(int(not all(map(math.isfinite, means)))):
            self._agreement.fail(f"the loss is no longer a number at step {step}: lower optim.lr, or warm up longer")
        return means
