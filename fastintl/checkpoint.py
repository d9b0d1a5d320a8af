"""Saving and loading a run's state: one file, whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from loaders.errors import UserError

_KEEP_LAST = 2


class Checkpoints:
    """The folder of a run's checkpoints: ``step_XXXXXXXX.pt``, and ``epoch_XXXX.pt`` for those kept for good.

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
        """
        path = self.folder / f"step_{step:08d}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(state, path)
        if epoch is not None and self.keep_every and epoch % self.keep_every == 0:
            kept = self.folder / f"epoch_{epoch:04d}.pt"
            kept.unlink(missing_ok=True)
            os.link(path, kept)
        for old in self._steps()[:-_KEEP_LAST]:
            old.unlink()
        return path

    def load_latest(self) -> dict[str, Any] | None:
        """The newest state on the CPU, None if there is none.

        Raises:
            UserError: the newest file is damaged.
        """
        steps = self._steps()
        if not steps:
            return None
        try:
            return torch.load(steps[-1], map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises several types on damaged files
            cure = f"delete it to resume from {steps[-2].name}" if len(steps) > 1 else "delete it to start again"
            raise UserError(f"the checkpoint {steps[-1]} is damaged ({_first_line(error)}): {cure}") from error

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))


def write_atomically(state: Any, path: Path) -> None:
    """``torch.save`` under a temporary name, flushed to disk, then renamed: a crash leaves the old file or the new."""
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
