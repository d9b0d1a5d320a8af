"""When a run's state is saved, and what happens where that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastintl.runs.checkpoint import Checkpoints
from loaders.errors import UserError


class SavePoints:
    """Saves a run's state by time and by step. A save that fails is told, and training goes on to the next.

    Args:
        checkpoints: where to.
        minutes: between two saves by time; 0 for none.
        saved: the step whose state is there already, None for none.
        warn: gets one sentence for each save that fails.
    """

    def __init__(
        self, checkpoints: Checkpoints, minutes: float, saved: int | None, warn: Callable[[str], None]
    ) -> None:
        self._checkpoints, self._minutes, self._saved, self._warn = checkpoints, minutes, saved, warn
        self._reason = ""
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the minutes have passed."""
        return self._minutes > 0 and time.monotonic() - self._last >= 60 * self._minutes

    def save(self, state: Callable[[], dict[str, Any]], step: int, epoch: int | None) -> None:
        """Saves what ``state`` returns, unless it is saved.

        Args:
            epoch: the epoch just completed, if the step ends one.
        """
        self._last = time.monotonic()
        if self._saved == step:
            return
        try:
            self._checkpoints.save(state(), step, epoch)
            self._saved = step
        except OSError as error:
            self._reason = str(error.strerror)
            self._warn(
                f"the state of step {step} could not be saved in {self._checkpoints.folder} ({self._reason}): "
                "training goes on, the older checkpoints stay, and the next save tries again"
            )

    def require(self, step: int) -> None:
        """Raises ``UserError`` unless the state of ``step`` is saved."""
        if self._saved != step:
            newest = f"the newest there is of step {self._saved}" if self._saved is not None else "there is none"
            raise UserError(
                f"the state of step {step}, the last, could not be saved in {self._checkpoints.folder} "
                f"({self._reason}), {newest}: make room there and start the same command again"
            )
