"""What every training shares: its folder, resuming, save points, signals, log points, and the stop at a broken loss."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from typing import Any, NoReturn

from torch import Tensor

from fastintl.distributed.agreement import Agreement
from fastintl.distributed.preemption import Preemption, Wish
from fastintl.distributed.world import World
from fastintl.runs.checkpoint import Checkpoints
from fastintl.runs.clock import Clock, TrainingProgress, gpu_memory
from fastintl.runs.fingerprint import difference, is_stored_otherwise
from fastintl.runs.folder import RunFolder
from fastintl.runs.lock import lock_run
from fastintl.runs.loss_guard import BrokenStep, LossGuard
from fastintl.runs.metrics_file import MetricsFile
from fastintl.runs.save_points import SavePoints
from loaders.errors import UserError
from loaders.files import remove_temporaries
from loaders.lock import Lock


class Run(ABC):
    """One training on this rank. A subclass says what is trained on what, what its state is, and when it pauses.

    Batches are functions of the step, so a run that was killed, stopped or interrupted ends with the same weights once
    it is started again. All ranks save, stop and fail at the same step, and nothing is saved before all have judged
    their losses.

    A subclass calls ``resume``, then ``open``, then ``train``, and ``close`` at last.

    Args:
        folder: no other process may write it meanwhile. None: nothing is kept, and signals do what they always do.
        save_minutes: how often the state is saved; 0 leaves the pauses alone.
        keep_every: the state of every so many epochs is kept for good; 0 keeps the last two.

    Attributes:
        step: steps done.
        last_step, epoch_steps: steps of the training, and of an epoch.
        batch_size: images of a step, over all ranks.
        log_every: steps from one log point to the next.
        guard: sees the losses of every step.
    """

    last_step: int
    epoch_steps: int
    batch_size: int
    log_every: int
    guard: LossGuard
    is_otherwise = "are stored in other bytes"  # images of another content
    cure = "give this run a name of its own (name=…)"  # where the folder holds another run

    def __init__(self, world: World, folder: RunFolder | None, save_minutes: float, keep_every: int = 0) -> None:
        self.world, self.folder, self._save_minutes = world, folder, save_minutes
        self.checkpoints = Checkpoints(folder.checkpoints, keep_every) if folder else None
        self.agreement = Agreement(world)
        self.preemption = Preemption(self.agreement)
        self.clock = Clock()
        self.step = 0
        self.metrics: MetricsFile | None = None
        self.save_points: SavePoints | None = None
        self._lock: Lock | None = None
        self._doubt: str | None = None
        self.progress: TrainingProgress | None = None

    # What a training says of itself

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """The batches from ``step`` to the next pause."""

    @abstractmethod
    def train_on(self, batch: Any) -> Tensor:
        """One update; returns the losses for the guard, on the device."""

    @abstractmethod
    def measured(self) -> dict[str, Any]:
        """The metrics of a log point, ``loss`` among them; reads the guard."""

    @abstractmethod
    def pause(self) -> None:
        """What happens after ``batches`` has ended: saves, evaluations."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which the training goes on, beside ``step`` and the clock's."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a ``state_dict``."""

    @abstractmethod
    def changed(self, state: Mapping[str, Any]) -> list[str]:
        """The settings by which the run that left a state would train to another result than this one."""

    def images(self) -> dict[str, Any] | None:
        """The ``fingerprint.description`` of the images, on the first rank; None where ``changed`` compares them."""
        return None

    def doubt(self, state: Mapping[str, Any]) -> str | None:
        """What the user must know of the images that a state was trained on, and of these: a sentence, or None."""
        found = self.images()
        if not found or not is_stored_otherwise(state["pictures"], found):
            return None
        return (
            f"{self.folder.path} goes on with images that {self.is_otherwise} than those it was trained on until now, "
            "under the same names and labels: if they were not just converted anew, put the former ones back"
        )

    def explain(self, broken: BrokenStep) -> str:
        """A sentence for the user on a broken step; every rank calls it."""
        return f"the loss is no longer a number at step {broken.number + 1}: lower the learning rate"

    def started(self, loss: Tensor) -> None:  # noqa: B027 (a training need not care)
        """What happens after the first step of this start, which compiles and warms up."""

    # Start and end

    def resume(self) -> bool:
        """Takes the folder, and the newest state in it on every rank; False if there is none.

        Raises:
            UserError: another process trains in the folder, it holds another run, or the ranks do not see the same one.
        """
        if self.folder is None:
            return False
        if self.world.is_main:
            self._lock = lock_run(self.folder.path)
            for place in (self.folder.path, self.folder.checkpoints):
                remove_temporaries(place)
        self.agreement.wait()  # the other ranks read nothing before
        state = self.checkpoints.load_latest()
        if not self.agreement.same(state["step"] if state else -1):
            raise UserError(
                f"the ranks do not find the same checkpoint in {self.checkpoints.folder}: set out= (--out of a tool) "
                "to a folder that all nodes share"
            )
        if state is not None:
            try:
                self._require_same_run(state)
                self._doubt = self.doubt(state)
                self.load_state_dict(state)
                if "clock" in state:
                    self.clock.load_state_dict(state["clock"])
            except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "state_dict" not in str(error):  # of a GPU, or of a rank
                    raise
                raise self.checkpoints.damaged("it does not hold what this run saves") from error
            self.step = state["step"]
        saved = self.step if state else None
        self.save_points = SavePoints(self.checkpoints, self._save_minutes, saved, self.warn)
        return state is not None

    def open(self, resumed: bool, title: str | None = "training") -> None:
        """Opens ``metrics.jsonl`` and the progress on the terminal, on the first rank.

        Args:
            resumed: what ``resume`` said.
            title: above the progress; None shows none.
        """
        self.progress = TrainingProgress(self.last_step, self.step, self.world.is_main and title is not None)
        if self.world.is_main and self.folder is not None:
            self.metrics = MetricsFile(self.folder.metrics, self.step if resumed else -1, self.warn)
        if self._doubt:
            self.warn(self._doubt)

    def close(self) -> None:
        """Gives the terminal and the folder back."""
        if self.progress:
            self.progress.close()
        if self._lock:
            self._lock.close()

    def _require_same_run(self, state: Mapping[str, Any]) -> None:
        place = self.folder.path
        if changed := self.changed(state):
            raise UserError(
                f"{place} holds a run with another {', '.join(changed)}: {self.cure}, or remove the folder to start "
                "again"
            )
        if absent := self.state_dict().keys() - state.keys():
            raise UserError(
                f"{place} holds a checkpoint of an older version, without {', '.join(sorted(absent))}: finish the run "
                f"with that version, or {self.cure}"
            )
        found = self.images()
        other = difference(state["pictures"], found) if found else None
        if self.agreement.largest(int(other is not None)):
            self.agreement.fail(f"{place} holds a run on {other}: they are not the same dataset; {self.cure}")

    # The loop

    def train(self) -> None:
        """Trains to the last step.

        Raises:
            UserError: a loss is no longer a number.
            SystemExit: a signal asked for a stop; the state is saved.
        """
        self._first_step = self.step + 1
        try:
            with self.preemption if self.folder else nullcontext():
                while self.step < self.last_step:
                    self._train_to_pause()
                    self.pause()
        except BrokenStep as broken:
            self.agreement.fail(self.explain(broken))

    def _train_to_pause(self) -> None:
        with closing(self._timed(self.batches())) as batches:
            for batch in batches:
                losses = self.train_on(batch)
                self.guard.see(losses)
                self.step += 1
                if self.step == self._first_step:
                    self.started(losses)
                if self.step % self.log_every == 0 or self.step == self.last_step:
                    self._log()
                if self.step == self.last_step:
                    return
                self._grant(self.preemption.agreed(self._wish()))

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the clock runs while they are trained on, and counts the waiting for each."""
        with closing(batches), self.clock:
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                self.clock.count(self.batch_size, time.perf_counter() - start)
                yield batch

    def _wish(self) -> Wish:
        return Wish.SAVE if self.save_points and self.save_points.due() else Wish.NONE

    def _grant(self, wish: Wish) -> None:
        if wish is Wish.SAVE:
            self.guard.check(self.step)
            if self.world.is_main and self.save_points.due():  # not again for the wish that was under way meanwhile
                self._write_state()
        elif wish.stops:
            self.stop(wish)

    def _log(self) -> None:
        """The one place that waits for the device again and again."""
        metrics = self.measured() | self.clock.read() | gpu_memory(self.world.device)
        self.write(epoch=self.epochs, **metrics)
        rate = self.clock.images_per_second
        images_left = (self.last_step - self.step) * self.batch_size
        self.progress.update(self.step, int(self.epochs), metrics, rate and images_left / rate)

    @property
    def epochs(self) -> float:
        """Epochs done."""
        return self.step / self.epoch_steps

    # What happens at its points

    def save(self) -> None:
        """Writes the state, on the first rank, after all ranks have judged their losses; every rank must call it."""
        self.guard.check(self.step)
        if self.world.is_main and self.save_points:
            self._write_state()

    def stop(self, wish: Wish) -> NoReturn:
        """Saves and ends all ranks at the same step."""
        self.save()
        self.agreement.wait()  # torchrun ends all ranks once one has left: nobody leaves before the save
        if self.world.is_main:
            self.save_points.require(self.step)
        self.note(
            f"stopped by a signal at step {self.step}, which is saved: the same command goes on from there "
            f"(exit status {wish.exit_status})"
        )
        sys.exit(wish.exit_status)

    def write(self, **values: Any) -> None:
        """A row of ``metrics.jsonl``."""
        if self.metrics:
            self.metrics.write(step=self.step, **values)

    def note(self, text: str) -> None:
        """A line for the user, on the first rank."""
        self.progress.note(text)

    def results_lost(self, error: OSError) -> UserError:
        """What to raise where the results of a finished training could not be written."""
        return UserError(
            f"the results could not be written to {self.folder.path} ({error.strerror or error}): make room there and "
            "start the same command again"
        )

    def warn(self, sentence: str) -> None:
        """A line on something that did not work and stops nothing."""
        self.note(f"warning: {sentence}")

    def _write_state(self) -> None:
        epoch, batch = divmod(self.step, self.epoch_steps)
        self.save_points.save(self._whole_state, self.step, epoch if batch == 0 else None)

    def _whole_state(self) -> dict[str, Any]:
        return {**self.state_dict(), "step": self.step, "clock": self.clock.state_dict()}
