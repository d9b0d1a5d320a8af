"""The loop of an evaluation that trains: epochs over a loader, saved whole and taken up exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fastintl.distributed import World
from fastintl.distributed.agreement import Agreement
from fastintl.runs.checkpoint import Checkpoints
from fastintl.runs.folder import RunFolder
from fastintl.runs.resuming import load_latest, take_folder
from loaders import Batch, Loader, UserError
from loaders.progress import Progress


class Trainee(Protocol):
    """What is trained. Its state must be the same on every rank."""

    def train_step(self, batch: Batch, epoch: int) -> Tensor:
        """One update on this rank's share of a batch; returns the loss, or one a head, on the device."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class EpochLoop:
    """Trains for some epochs; killed at any time and started again, it ends with the same weights.

    The order and the crops of the loader are functions of the position, so the state is the trainee's and the step.

    Args:
        trainee: what is trained.
        loader: this rank's share of the images.
        epochs: how many.
        folder: where the checkpoints go; None keeps nothing.
        settings: everything that changes the result, plain values; a checkpoint of other settings is refused.
        save_minutes: save this often within an epoch too; 0 only after epochs.
        title: of the progress, which the main rank shows on stderr; None shows none.

    Raises:
        UserError: the folder holds a training with other settings, or a damaged checkpoint, is in use by another
            process, or is not the same for all ranks.
    """

    def __init__(
        self,
        trainee: Trainee,
        loader: Loader,
        epochs: int,
        world: World,
        folder: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        save_minutes: float = 10.0,
        title: str | None = None,
    ) -> None:
        self.trainee, self.loader, self.world = trainee, loader, world
        self.settings, self.save_minutes, self.title = dict(settings or {}), save_minutes, title
        self.total_steps = epochs * len(loader)
        self.checkpoints = self.lock = None
        self.step, self.last_save = 0, time.monotonic()
        if folder is not None:
            self._resume(folder)

    def fit(self, end_of_epoch: Callable[[int], None] = lambda epochs_done: None) -> None:
        """Trains to the end.

        Args:
            end_of_epoch: called with the epochs done, before the state is saved.

        Raises:
            UserError: the loss (of every head) is no longer a number.
        """
        with self._progress() as progress:
            while self.step < self.total_steps:
                epoch, first_batch = divmod(self.step, len(self.loader))
                self.loader.set_position(epoch, first_batch)
                finite = None
                with closing(iter(self.loader)) as batches:
                    for batch in batches:
                        loss = self.trainee.train_step(batch, epoch)
                        finite = loss.isfinite() if finite is None else finite & loss.isfinite()
                        self.step += 1
                        if progress:
                            progress.advance(1)
                        if self._minutes_have_passed():
                            self._save(finite)
                end_of_epoch(epoch + 1)
                self._save(finite)

    def _progress(self):
        if self.title is None or not self.world.is_main:
            return nullcontext()
        return Progress(self.title, "steps", self.total_steps, self.step)

    def _minutes_have_passed(self) -> bool:
        inside_epoch = self.step % len(self.loader) != 0
        return inside_epoch and 0 < self.save_minutes <= (time.monotonic() - self.last_save) / 60

    def _save(self, finite: Tensor) -> None:
        self.last_save = time.monotonic()
        if not finite.any().item():
            raise UserError(f"the loss is no longer a number after step {self.step}: lower the learning rate")
        if self.checkpoints is not None and self.world.is_main:
            state = {"step": self.step, "settings": self.settings, "trainee": self.trainee.state_dict()}
            self.checkpoints.save(state, self.step)

    def _resume(self, folder: Path) -> None:
        self.checkpoints, agreement = Checkpoints(folder), Agreement(self.world)
        self.lock = take_folder(RunFolder(folder), self.world, agreement)  # until the end of the process
        state = load_latest(self.checkpoints, agreement)
        if state is None:
            return
        saved = state["settings"]
        changed = sorted(key for key in saved | self.settings if saved.get(key) != self.settings.get(key))
        if changed:
            raise UserError(
                f"{self.checkpoints.folder} holds a training with another {', '.join(changed)}: give this one another "
                "--out, or remove the folder to start again"
            )
        self.trainee.load_state_dict(state["trainee"])
        self.step = state["step"]
