"""The training of one run: set-up, the loop, and what happens at its log, save and evaluation points."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from torch import Tensor

from fastintl import config as configuration
from fastintl import distributed
from fastintl.config import Config
from fastintl.data import multi_crop, public_files, training_loader, wrong_file
from fastintl.distributed import World
from fastintl.distributed.agreement import Agreement
from fastintl.distributed.elastic import require_restartable
from fastintl.distributed.preemption import Preemption
from fastintl.evaluate.online import OnlineEvaluation
from fastintl.network.precision import autocast_dtype
from fastintl.report.crops import draw_crops
from fastintl.report.run_page import refresh_report
from fastintl.runs.checkpoint import Checkpoints
from fastintl.runs.clock import Clock, TrainingProgress, gpu_memory
from fastintl.runs.fingerprint import description, difference
from fastintl.runs.folder import RunFolder, refuse_other_settings
from fastintl.runs.metrics_file import MetricsFile
from fastintl.runs.resuming import load_latest, take_folder
from fastintl.runs.run_end import leave_results, stop_for_requeue
from fastintl.runs.save_points import SavePoints
from fastintl.runs.summary import accuracies
from fastintl.runs.wandb_mirror import WandbMirror
from fastintl.training.run_start import announcement, describe_start
from fastintl.training.spectrum_watch import SpectrumWatch
from fastintl.training.step import TrainingStep
from fastintl.training.step_guard import BrokenStep, StepGuard, explain
from loaders import Batch, UserError


def pretrain(config: Config) -> None:
    """Trains the run that ``config`` describes, from where it was left.

    Raises:
        UserError: bad data or settings, or a loss that is no longer a number.
    """
    require_restartable()
    with distributed.start(config.train.device) as world:
        _fit(config, world)


def _fit(config: Config, world: World) -> None:
    """A run that holds no process group any more when this returns, see ``World.close``."""
    with closing(Pretraining(config, world)) as run:
        run.fit()


class Pretraining:
    """One run on this rank. Its state is that of ``train_step`` (networks, optimiser, scaler) and ``step``."""

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.world = config, world
        self.folder = RunFolder.of(config)
        self.checkpoints = Checkpoints(self.folder.checkpoints, config.train.keep_every)
        self.agreement = Agreement(world)
        self._verify_images()
        dtype = autocast_dtype(config.train.precision, world.device)
        self.loader = training_loader(config, world, self.folder.quarantine, dtype)
        self.epoch_steps = len(self.loader)
        # On one rank: to read ImageNet's names from a .beton takes a second and 100 MB.
        self.images = description(self.loader.images) if world.is_main else None
        self.train_step = TrainingStep(config, world, self.epoch_steps)
        self.model = self.train_step.model
        total_steps = self.train_step.total_steps
        self.last_step = min(total_steps, config.train.max_steps or total_steps)
        self.guard = StepGuard(self.train_step, self.agreement, window=config.log.every)
        self.preemption = Preemption(self.agreement)
        self.clock = Clock()
        self.step, self.wandb_id = 0, None
        self.lock = take_folder(self.folder, world, self.agreement)
        resumed = self._resume()
        self.first_step = self.step + 1
        self.spectrum = SpectrumWatch(config.log, self.train_step.loss)

        self.evaluation = OnlineEvaluation(config, world, self.folder)
        self.progress = TrainingProgress(self.last_step, self.step, shown=world.is_main)
        if world.is_main:
            self.folder.create(config, describe_start(self))
            self.metrics = MetricsFile(self.folder.metrics, self.step if resumed else -1, self._warn)
            self.mirror = WandbMirror(config, self.folder, self.wandb_id)
            self.wandb_id = self.mirror.run_id
        saved = self.step if resumed else None
        self.save_points = SavePoints(self.checkpoints, config.train.save_minutes, saved, self._warn)

    def fit(self) -> None:
        """Trains to the end and leaves the results in the run folder."""
        for line in announcement(self):
            self.progress.note(line)
        try:
            self._train()
        except BrokenStep as broken:
            self.agreement.fail(explain(broken, self.train_step, self.loader, self.folder.nonfinite))
        leave_results(self)

    def _train(self) -> None:
        if self.step == 0:
            self._before_training()
        elif self._evaluation_was_cut_off():
            self._evaluate()
        with self.preemption:
            while self.step < self.last_step:
                with closing(self._rest_of_epoch()) as batches:
                    for batch in batches:
                        loss = self.train_step(batch.views, self.step)
                        self.guard.see(loss)
                        self.step += 1
                        if self.step == self.first_step:
                            self._tell_first_step(loss)
                        if self.step % self.config.log.every == 0 or self.step == self.last_step:
                            self._log()
                        if self.step == self.last_step:
                            break
                        if self.preemption.agreed():
                            stop_for_requeue(self)
                        if self.save_points.due():
                            self.save()
                self._end_of_epoch()

    def close(self) -> None:
        self.progress.close()
        self.loader.close()
        self.evaluation.close()
        if self.world.is_main:
            self.mirror.close()
        if self.lock:
            self.lock.close()

    # Set-up

    def _verify_images(self) -> None:
        """Looks for damaged public files, on the first rank, and ends all ranks if there is one."""
        files = public_files(self.config)
        wrong = wrong_file(files) if self.world.is_main else None
        if self.agreement.largest(int(wrong is not None)):
            self.agreement.fail(wrong or "")

    def _resume(self) -> bool:
        """Takes up the newest checkpoint, on every rank; False if there is none."""
        state = load_latest(self.checkpoints, self.agreement)
        if state is None:
            return False
        refuse_other_settings(self.config, state["config"], self.folder.path)
        if absent := self._state().keys() - state.keys():
            raise UserError(
                f"{self.folder.path} holds a checkpoint of an older version, without {', '.join(sorted(absent))}: "
                "finish the run with that version, or give this run a name of its own (name=…)"
            )
        self._refuse_other_images(state["pictures"])
        self.train_step.load_state_dict(state)
        self.guard.skipped_steps = state["skipped_steps"]
        self.clock.load_state_dict(state["clock"])
        self.step, self.wandb_id = state["step"], state["wandb_id"]
        return True

    def _refuse_other_images(self, saved: Mapping[str, Any]) -> None:
        """Ends all ranks if the run began with other images than these, as far as ``difference`` can tell."""
        other = difference(saved, self.images) if self.world.is_main else None
        if self.agreement.largest(int(other is not None)):
            self.agreement.fail(
                f"{self.folder.path} holds a run on {other}: they are not the same dataset; give this run a name of "
                "its own (name=…)"
            )

    def _before_training(self) -> None:
        """Draws the crops and measures the baselines."""
        if self.world.is_main:
            try:
                draw_crops(self.loader, multi_crop(self.config.crops), self.folder.crops)
            except OSError as error:
                self._warn(f"{self.folder.crops} could not be written ({error.strerror})")
        if self.config.eval.baselines and self.evaluation.queries is not None:
            baselines = {
                "chance": lambda: self.evaluation.chance,
                "raw pixels": self.evaluation.raw_pixels_top1,
                "untrained": lambda: self.evaluation.knn_top1(self.model.encoder.backbone),
            }
            scores = {}
            for name, measure in baselines.items():
                scores[f"knn_top1_{name.replace(' ', '_')}"] = score = measure()
                self.progress.note(f"baseline    {self.config.eval.k}-nn accuracy {score:.1%}: {name}")
            self._write(epoch=0, **scores)

    # The points of the loop

    def _rest_of_epoch(self) -> Iterator[Batch]:
        """The batches from here to the end of the epoch; the clock runs while they are trained on."""
        self.loader.set_position(*divmod(self.step, self.epoch_steps))
        with closing(iter(self.loader)) as batches, self.clock:
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                self.clock.count(self.config.train.batch_size, time.perf_counter() - start)
                yield batch

    def _epochs_done(self) -> float:
        return self.step / self.epoch_steps

    def _tell_first_step(self, loss: Tensor) -> None:
        """Waits for the device once: what compiles and warms up counts apart."""
        loss.item()
        seconds = self.clock.first_step()
        self._write(epoch=self._epochs_done(), first_step_seconds=seconds)
        self.progress.note(f"first step  {seconds:.1f} s, with compilation and warm-up; images/s leave it out")

    def _log(self) -> None:
        """Reads what the guard saw (the one place that waits for the device again and again), and tells."""
        seen = self.guard.check(self.step)
        metrics: dict[str, Any] = {"loss": seen.loss, "lr": self.train_step.lr}
        metrics |= self.clock.read() | gpu_memory(self.world.device)
        if math.isfinite(seen.gradient_norm):  # it is not where fp16 overflowed, and JSON has no infinity
            metrics["gradient_norm"] = seen.gradient_norm
        if self.train_step.scaler.is_enabled():
            metrics |= {"skipped_steps": seen.skipped_steps, "loss_scale": seen.loss_scale}
        if self.world.is_main and self.spectrum.is_due(self.step, self.step == self.last_step):
            metrics |= self.spectrum.measure(self.train_step.embeddings[0], self.step)
        self._write(epoch=self._epochs_done(), **metrics)
        images_left = (self.last_step - self.step) * self.config.train.batch_size
        rate = self.clock.images_per_second
        self.progress.update(self.step, int(self._epochs_done()), metrics, rate and images_left / rate)

    def _write(self, **values: Any) -> None:
        if self.world.is_main:
            self.metrics.write(step=self.step, **values)
            self.mirror.log(values, self.step)

    def _end_of_epoch(self) -> None:
        """Saves and evaluates where it is due: in this order, so that a long evaluation puts no step at risk."""
        self.guard.check(self.step)
        is_last, epoch = self.step == self.last_step, self._epochs_done()
        evaluates = self.evaluation.is_due(epoch, is_last)
        if is_last or evaluates or epoch % self.config.train.save_every == 0:
            self.save()
        if self.preemption.agreed_at_once() and (evaluates or not is_last):
            stop_for_requeue(self)
        if evaluates:
            self._evaluate()
        if self.world.is_main:
            refresh_report(self.folder.path)

    def _evaluate(self) -> None:
        scores, epoch = self.evaluation.scores(self.model.encoder.backbone), self._epochs_done()
        self.agreement.wait()  # for the first rank, which alone trains classifiers, perhaps for an hour
        self._write(epoch=epoch, **scores)
        self.progress.note(f"epoch {epoch:g}  {accuracies(scores, self.config.eval.k)}")

    def _evaluation_was_cut_off(self) -> bool:
        """Whether the state resumed from is due for an evaluation that the run before did not come to."""
        if not self.evaluation.is_due(self._epochs_done(), self.step == self.last_step):
            return False
        missing = self.world.is_main and not any(
            row["step"] == self.step and "knn_top1" in row for row in self.metrics.rows()
        )
        return self.agreement.largest(int(missing)) > 0

    def save(self) -> None:
        """Writes the state, on the first rank; never a broken one over a good one."""
        if self.world.is_main and not self.guard.is_held():
            epoch, batch = divmod(self.step, self.epoch_steps)
            self.save_points.save(self._state, self.step, epoch if batch == 0 else None)

    def _state(self) -> dict[str, Any]:
        return {
            **self.train_step.state_dict(),
            "step": self.step,
            "pictures": self.images,
            "clock": self.clock.state_dict(),
            "skipped_steps": self.guard.skipped_steps,
            "wandb_id": self.wandb_id,
            "config": configuration.to_yaml(self.config),
        }

    def _warn(self, sentence: str) -> None:
        self.progress.note(f"warning: {sentence}")
