"""A loss that is no longer a number: noticed on the device, and agreed on by all ranks before anything is saved."""

from __future__ import annotations

import torch
from torch import Tensor

from fastintl.distributed.agreement import Agreement


class BrokenStep(Exception):
    """A step, 0 .. total_steps - 1, whose losses are not finite on some rank.

    ``values`` is what the guard saw of it on this rank, the loss first.
    """

    def __init__(self, number: int, values: list[float]) -> None:
        super().__init__(f"step {number + 1} gave a loss of {values[0]:g}")
        self.number, self.values = number, values


class LossGuard:
    """Keeps what every step says of itself on the device, and judges it when asked: no step waits for the device.

    Every rank must see and check at the same steps.

    Args:
        agreement: among the ranks.
    """

    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement
        self._seen: list[Tensor] = []
        self._checked: list[Tensor] = []

    def see(self, losses: Tensor) -> None:
        """Takes a step's losses, a scalar or (k,), on the device; nobody may write them afterwards."""
        self._seen.append(losses.detach().float().flatten())

    def check(self, step: int) -> None:
        """Judges the steps seen since the last check. Waits for the device.

        Args:
            step: how many steps are done.

        Raises:
            BrokenStep: on all ranks, the first step that broke on any of them.
        """
        if not self._seen:
            return
        rows = torch.stack(self._seen).cpu()
        self._seen = []
        good = self.are_good(rows).long()
        # All rows if each is good: the leading ones that are.
        back = self.agreement.largest(len(rows) - int(good.cumprod(0).sum()))
        if back:
            raise BrokenStep(step - back, rows[-back].tolist())
        self._checked.append(rows)

    def read(self, step: int) -> Tensor | None:
        """Checks, and returns the losses (steps, k) since the last reading, on the host; None if there are none."""
        self.check(step)
        rows, self._checked = self._checked, []
        return torch.cat(rows) if rows else None

    def are_good(self, rows: Tensor) -> Tensor:
        """Whether each step of (steps, k) may be trained on: all its losses are finite."""
        return rows.isfinite().all(dim=1)
