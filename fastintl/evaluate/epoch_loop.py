"""An evaluation that trains, such as a linear probe or a fine-tuning: a run of some epochs over a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fastintl.distributed import World
from fastintl.network.randomness import seed_step
from fastintl.runs.folder import RunFolder
from fastintl.runs.loss_guard import LossGuard
from fastintl.runs.run import Run
from loaders import Batch, Loader

CONTENT = "content of the images"  # in the settings: what loaders.content says of them; older versions had none
_LOG_EVERY = 50  # steps between two readings of the loss, each of which waits for the device


class Trainee(Protocol):
    """What is trained. Its state must be the same on every rank."""

    def train_step(self, batch: Batch, epoch: int) -> Tensor:
        """One update on this rank's share of a batch; returns the loss, or one a head (H,), on the device."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class EpochLoop(Run):
    """Trains for some epochs; killed at any time and started again, it ends with the same weights.

    Args:
        trainee: what is trained.
        loader: this rank's share of the images.
        epochs: how many.
        folder: where the checkpoints go; None keeps nothing.
        settings: everything that changes the result, plain values; a checkpoint of other settings is refused.
        save_minutes: save this often within an epoch too; 0 only after epochs.
        title: above the progress, which the main rank shows on stderr; None shows none.

    Raises:
        UserError: the folder holds a training with other settings, or a damaged checkpoint, is in use by another
            process, or is not the same for all ranks.
    """

    cure = "give this run another --out"

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
        super().__init__(world, folder and RunFolder(folder, checkpoints=folder), save_minutes)
        self.trainee, self.loader, self.settings = trainee, loader, dict(settings or {})
        self.epoch_steps, self.last_step = len(loader), epochs * len(loader)
        self.batch_size, self.log_every = loader.batch_size, _LOG_EVERY
        self.guard = _HeadsGuard(self.agreement)
        self.open(self.resume(), title)

    def fit(self, end_of_epoch: Callable[[int], None] = lambda epochs_done: None) -> None:
        """Trains to the end.

        Args:
            end_of_epoch: called with the epochs done, after the state is saved.

        Raises:
            UserError: the loss (of every head) is no longer a number.
            SystemExit: a signal asked for a stop; the state is saved.
        """
        self._end_of_epoch = end_of_epoch
        self.train()
        self.progress.close()
        if self.save_points and self.world.is_main:
            self.save_points.require(self.step)

    def batches(self) -> Iterator[Batch]:
        self.loader.set_position(*divmod(self.step, self.epoch_steps))
        return iter(self.loader)

    def train_on(self, batch: Batch) -> Tensor:
        seed_step(self.settings.get("seed", 0), self.step, self.world.rank)
        return self.trainee.train_step(batch, self.step // self.epoch_steps)

    def measured(self) -> dict[str, Any]:
        """The loss of the head that has the lowest."""
        losses = self.guard.read(self.step)[-1]
        return {"loss": losses[losses.isfinite()].min().item()}

    def pause(self) -> None:
        self.save()
        wish = self.preemption.agreed_at_once() if self.folder else None
        if wish and wish.stops and self.step < self.last_step:
            self.stop(wish)
        self._end_of_epoch(self.step // self.epoch_steps)

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, "trainee": self.trainee.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.trainee.load_state_dict(state["trainee"])

    def changed(self, state: Mapping[str, Any]) -> list[str]:
        saved, known = state["settings"], self.settings
        if CONTENT not in saved:
            known = {key: value for key, value in known.items() if key != CONTENT}
        return sorted(key for key in saved | known if saved.get(key) != known.get(key))

    def doubt(self, state: Mapping[str, Any]) -> str | None:
        if CONTENT in state["settings"] or CONTENT not in self.settings:
            return None
        return (
            f"an older version began the training in {self.folder.path} and did not note what its images hold: it goes "
            "on as if they were these, which only you can know; give another --out to begin anew"
        )


class _HeadsGuard(LossGuard):
    """A head whose learning rate is too high may diverge, as long as there is another."""

    def are_good(self, rows: Tensor) -> Tensor:
        return rows.isfinite().any(dim=1)
