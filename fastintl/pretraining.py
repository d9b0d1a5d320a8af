"""The training of one run: set-up, the loop, and what happens at its log, save and evaluation points."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import torch

from fastintl import config as configuration
from fastintl import distributed, summary
from fastintl.checkpoint import Checkpoints, write_atomically
from fastintl.config import Config
from fastintl.data import multi_crop, training_loader
from fastintl.distributed import World
from fastintl.evaluate.online import OnlineEvaluation
from fastintl.monitor import Clock, MetricsFile, TrainingProgress, gpu_memory, read_metrics
from fastintl.precision import autocast_dtype
from fastintl.report.crops import draw_crops
from fastintl.report.run_page import refresh_report
from fastintl.run_folder import RunFolder, refuse_other_settings
from fastintl.spectrum_watch import SpectrumWatch
from fastintl.training_step import TrainingStep
from fastintl.wandb_mirror import WandbMirror
from loaders import Batch, UserError
from loaders.surroundings import surroundings


def pretrain(config: Config) -> None:
    """Trains the run that ``config`` describes, from where it was left.

    Raises:
        UserError: bad data or settings, or a loss that is no longer a number.
    """
    with distributed.start(config.train.device) as world, closing(Pretraining(config, world)) as run:
        run.fit()


class Pretraining:
    """One run on this rank. Its state is that of ``train_step`` (networks, optimiser, scaler) and ``step``."""

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.world = config, world
        self.folder = RunFolder.of(config)
        self.checkpoints = Checkpoints(self.folder.checkpoints, config.train.keep_every)
        dtype = autocast_dtype(config.train.precision, world.device)
        self.loader = training_loader(config, world, self.folder.quarantine, dtype)
        self.epoch_steps = len(self.loader)
        self.train_step = TrainingStep(config, world, self.epoch_steps)
        self.model = self.train_step.model
        total_steps = self.train_step.total_steps
        self.last_step = min(total_steps, config.train.max_steps or total_steps)
        self.finite = torch.ones((), dtype=torch.bool, device=world.device)
        self.clock = Clock()
        self.step, self.wandb_id = 0, None
        resumed = self._resume()
        self.first_step = self.step + 1
        self.spectrum = SpectrumWatch(config)

        self.evaluation = OnlineEvaluation(config, world, self.folder)
        if world.is_main:
            self.folder.create(config, self._describe_start())
            self.metrics = MetricsFile(self.folder.metrics, self.step if resumed else -1)
            self.mirror = WandbMirror(config, self.folder, self.wandb_id)
            self.wandb_id = self.mirror.run_id
        self.progress = TrainingProgress(self.last_step, self.step, shown=world.is_main)
        self.last_save = time.monotonic()

    def fit(self) -> None:
        """Trains to the end and leaves the results in the run folder."""
        self._announce()
        if self.step == 0:
            self._before_training()
        while self.step < self.last_step:
            with closing(self._rest_of_epoch()) as batches:
                for batch in batches:
                    loss = self.train_step(batch.views, self.step)
                    self.finite &= loss.isfinite()
                    self.step += 1
                    if self.step == self.first_step:
                        self._tell_first_step(loss)
                    if self.step % self.config.log.every == 0 or self.step == self.last_step:
                        self._log(loss)
                    if self.step == self.last_step:
                        break
                    if self._minutes_have_passed():
                        self._save()
            self._end_of_epoch()
        self._finish()

    def close(self) -> None:
        self.progress.close()
        self.loader.close()
        self.evaluation.close()
        if self.world.is_main:
            self.metrics.close()
            self.mirror.close()

    # Set-up

    def _resume(self) -> bool:
        """Takes up the newest checkpoint, on every rank; False if there is none."""
        state = self.checkpoints.load_latest()
        if state is None:
            return False
        refuse_other_settings(self.config, state["config"], self.folder.path)
        if state["epoch_steps"] != self.epoch_steps:
            raise UserError(
                f"{self.folder.path} holds a run of {state['epoch_steps']} steps an epoch, and these pictures give "
                f"{self.epoch_steps}: they are not the same data set; give this run a name of its own (name=…)"
            )
        self.train_step.load_state_dict(state)
        self.clock.load_state_dict(state["clock"])
        self.step, self.wandb_id = state["step"], state["wandb_id"]
        return True

    def _describe_start(self) -> dict[str, Any]:
        """A line of ``starts.jsonl``."""
        return {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "step": self.step,
            "last_step": self.last_step,
            "epoch_steps": self.epoch_steps,
            "ranks": self.world.world_size,
            "device": self.world.device.type,
            "precision": str(self.train_step.dtype).removeprefix("torch."),
            "source": self.loader.source,
            "pictures": len(self.loader.pictures),
            **surroundings(),
        }

    def _announce(self) -> None:
        pictures, held_out = self.loader.pictures, "none, so nothing is evaluated"
        if self.evaluation.queries is not None:
            queries = self.evaluation.queries.pictures
            held_out = f"{len(queries):,} in {queries.path}"
        views = " ".join(str(size) for size in self.config.crops.sizes)
        self.progress.note(f"run         {self.folder.path}" + (f", resumed at step {self.step}" if self.step else ""))
        self.progress.note(f"pictures    {len(pictures):,} in {pictures.path}, decoded by {self.loader.source}")
        self.progress.note(f"held out    {held_out}")
        self.progress.note(
            f"training    {self.config.model.arch}, views of {views} px, batch {self.config.train.batch_size} on "
            f"{self.world.world_size} x {self.world.device.type} in {str(self.train_step.dtype).removeprefix('torch.')}"
        )

    def _before_training(self) -> None:
        """Draws the crops and measures the baselines."""
        if self.world.is_main:
            draw_crops(self.loader, multi_crop(self.config.crops), self.folder.crops)
        if self.config.eval.baselines and self.evaluation.queries is not None:
            scores = {
                "knn_top1_chance": self.evaluation.chance,
                "knn_top1_raw_pixels": self.evaluation.raw_pixels_top1(),
                "knn_top1_untrained": self.evaluation.knn_top1(self.model.encoder.backbone),
            }
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

    def _tell_first_step(self, loss: torch.Tensor) -> None:
        """Waits for the device once: what compiles and warms up counts apart."""
        loss.item()
        seconds = self.clock.first_step()
        self._write(epoch=self._epochs_done(), first_step_seconds=seconds)
        self.progress.note(f"first step  {seconds:.1f} s, with compilation and warm-up; images/s leave it out")

    def _log(self, loss: torch.Tensor) -> None:
        """Reads the loss (the one place that waits for the device again and again), checks it, and tells."""
        value = loss.item()
        if not self.finite.item():
            raise UserError(
                f"the loss is no longer a number at step {self.step}: the last checkpoint is from before; resume "
                "with a lower optim.lr under a new name, or train.precision=bf16 or fp32"
            )
        metrics = {"loss": value, "lr": self.train_step.lr, **self.clock.read(), **gpu_memory(self.world.device)}
        if self.world.is_main and self.spectrum.is_due(self.step, self.step == self.last_step):
            metrics |= self.spectrum.measure(self.train_step.embeddings[0], self.step)
        self._write(epoch=self._epochs_done(), **metrics)
        pictures_left = (self.last_step - self.step) * self.config.train.batch_size
        rate = self.clock.images_per_second
        self.progress.update(self.step, int(self._epochs_done()), metrics, rate and pictures_left / rate)

    def _write(self, **values: Any) -> None:
        if self.world.is_main:
            self.metrics.write(step=self.step, **values)
            self.mirror.log(values, self.step)

    def _minutes_have_passed(self) -> bool:
        minutes = self.config.train.save_minutes
        return minutes > 0 and time.monotonic() - self.last_save >= 60 * minutes

    def _end_of_epoch(self) -> None:
        """Evaluates and saves where it is due: in this order, so that a run killed in between evaluates again."""
        is_last, epoch = self.step == self.last_step, self._epochs_done()
        if self.evaluation.is_due(epoch, is_last):
            score = self.evaluation.knn_top1(self.model.encoder.backbone)
            self._write(epoch=epoch, knn_top1=score)
            self.progress.note(f"epoch {epoch:g}  {self.config.eval.k}-nn accuracy {score:.1%}")
        if is_last or epoch % self.config.train.save_every == 0:
            self._save()
        if self.world.is_main:
            refresh_report(self.folder.path)

    def _save(self) -> None:
        self.last_save = time.monotonic()
        if not self.world.is_main or not self.finite.item():  # a broken state must not push out a good one
            return
        state = {
            **self.train_step.state_dict(),
            "step": self.step,
            "epoch_steps": self.epoch_steps,
            "clock": self.clock.state_dict(),
            "wandb_id": self.wandb_id,
            "config": configuration.to_yaml(self.config),
        }
        epoch, batch = divmod(self.step, self.epoch_steps)
        self.checkpoints.save(state, self.step, epoch if batch == 0 else None)

    def _finish(self) -> None:
        """Leaves the backbone, the summary and the report in the run folder, and prints the table."""
        self.progress.close()
        if not self.world.is_main:
            return
        write_atomically(self.model.encoder.backbone.state_dict(), self.folder.backbone)
        results = summary.summarise(read_metrics(self.folder.metrics), self.config, self.step, self.clock)
        self.folder.write_summary(results)
        refresh_report(self.folder.path)
        summary.print_table(results, self.config, self.folder.path)
