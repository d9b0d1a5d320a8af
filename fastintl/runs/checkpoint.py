"""Saving and loading a run's state: one file, whole or absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from fastintl.weights.pickled import Damaged, load_values
from loaders.errors import UserError
from loaders.files import replacing

_KEEP_LAST = 2


class Checkpoints:
    """The folder of a run's checkpoints: ``step_XXXXXXXX.pt``, and ``epoch_XXXX.pt`` for those kept for good.

    A kill at any moment leaves whole files only, the newest among them, and perhaps a temporary one.

    Args:
        folder: created if missing.
        keep_every: keep the checkpoint of every so many epochs for good; 0 keeps only the last two.
    """

    def __init__(self, folder: Path, keep_every: int = 0) -> None:
        self.folder, self.keep_every = folder, keep_every

    def save(self, state: dict[str, Any], step: int, epoch: int | None = None) -> Path:
        """Writes the state of ``step`` and removes all but the last two.

        Args:
            state: tensors and plain values; loads with ``weights_only=True``.
            epoch: the epoch just completed, if the step ends one.

        Raises:
            OSError: it cannot be written. The older files are as they were.
        """
        path = self.folder / f"step_{step:08d}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = epoch is not None and self.keep_every > 0 and epoch % self.keep_every == 0
        write_atomically(state, path, also=self.folder / f"epoch_{epoch:04d}.pt" if kept else None)
        for old in self._steps()[:-_KEEP_LAST]:
            old.unlink(missing_ok=True)
        return path

    def latest(self) -> Path | None:
        """The newest file."""
        steps = self._steps()
        return steps[-1] if steps else None

    def load_latest(self) -> dict[str, Any] | None:
        """The newest state on the CPU, None if there is none.

        Raises:
            UserError: the newest file is damaged.
        """
        steps = self._steps()
        if not steps:
            return None
        try:
            state = load_values(steps[-1])
        except Damaged as error:
            raise self.damaged(str(error)) from error
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            raise self.damaged("it holds no run's state")
        if state["step"] != int(steps[-1].stem[5:]):
            raise self.damaged(f"it holds the state of step {state['step']}")
        return state

    def damaged(self, reason: str) -> UserError:
        """What to say of the newest file."""
        steps = self._steps()
        cure = f"delete it to resume from {steps[-2].name}" if len(steps) > 1 else "delete it to start again"
        return UserError(f"the checkpoint {steps[-1]} is damaged ({reason}): {cure}")

    def _steps(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step_*.pt") if path.stem[5:].isdecimal())


def write_atomically(state: Any, path: Path, also: Path | None = None) -> None:
    """``torch.save``, whole or not at all: a crash leaves the old file or the new.

    Args:
        also: a second name for the same file. It is there before ``path`` is, so that whoever finds ``path`` finds
            both.

    Raises:
        OSError: it cannot be written; the temporary file is gone again.
    """
    try:
        with replacing(path) as temporary:
            with open(temporary, "wb") as file:
                torch.save(state, file)
            if also is not None:
                with replacing(also) as second:
                    _copy(temporary, second)
    except BaseException as error:
        # torch's own message covers up the system's.
        raise _system_error(error) or error from None


def _copy(whole: Path, path: Path) -> None:
    """A second name for a whole file; a second copy on a file system without hard links."""
    path.unlink(missing_ok=True)
    try:
        os.link(whole, path)
    except OSError:
        shutil.copyfile(whole, path)


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
