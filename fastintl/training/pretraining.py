"""The pretraining of one run: set-up, and what happens at its log points, its pauses and its end."""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastintl import config as configuration
from fastintl import distributed
from fastintl.config import Config
from fastintl.config.options import differences
from fastintl.data import find, find_labelled, multi_crop, public_files, training_loader, wrong_file
from fastintl.distributed import World
from fastintl.distributed.elastic import require_restartable
from fastintl.evaluate.online import OnlineEvaluation
from fastintl.network.precision import autocast_dtype
from fastintl.report.crops import draw_crops
from fastintl.report.run_page import PageOfARun, refresh_report
from fastintl.runs import summary
from fastintl.runs.checkpoint import write_atomically
from fastintl.runs.fingerprint import description
from fastintl.runs.folder import RunFolder
from fastintl.runs.loss_guard import BrokenStep
from fastintl.runs.run import Run
from fastintl.runs.tensorboard_mirror import TensorboardMirror
from fastintl.runs.wandb_mirror import WandbMirror
from fastintl.training.build import start_from
from fastintl.training.spectrum_watch import SpectrumWatch
from fastintl.training.step import TrainingStep
from fastintl.training.step_guard import StepGuard, explain
from fastintl.training.step_memory import gpu_shortage, least_gpu_bytes, shortage
from loaders import Batch
from loaders.content import content_digest
from loaders.environment import describe_environment, free_bytes


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


class Pretraining(Run):
    """One run on this rank. Its state is that of ``train_step`` (networks, optimiser, scaler) and ``step``."""

    def __init__(self, config: Config, world: World) -> None:
        super().__init__(world, RunFolder.of(config), config.train.save_minutes, config.train.keep_every)
        self.config = config
        self._verify_images()
        dtype = autocast_dtype(config.train.precision, world.device)
        self.loader = training_loader(config, world, self.folder.quarantine, dtype)
        # On one rank: to read ImageNet's names from a .beton takes a second and 100 MB.
        self._images = None
        if world.is_main:
            self._images = description(self.loader.images, content_digest(self.loader.images))
        self.epoch_steps, self.batch_size = len(self.loader), config.train.batch_size
        self.log_every = config.log.every
        self.train_step = TrainingStep(config, world, self.epoch_steps)
        self.model = self.train_step.model
        total_steps = self.train_step.total_steps
        self.last_step = min(total_steps, config.train.max_steps or total_steps)
        self.guard = StepGuard(self.train_step, self.agreement)
        self.wandb_id: str | None = None
        self._untrained: nn.Module | None = None  # a copy, from the start of a run until its baselines are measured
        resumed = self.resume()
        if not resumed and config.model.weights is not None:
            start_from(self.model, config.model.weights)
        self.spectrum = SpectrumWatch(config.log, self.train_step.loss)
        self.evaluation = OnlineEvaluation(config, world, self.folder)
        if world.is_main:
            self.folder.create(configuration.to_yaml(config), self._start())
            wandb = WandbMirror(config, self.folder, self.wandb_id)
            self.wandb_id = wandb.run_id
            self.mirrors = [wandb, TensorboardMirror(config, self.folder, self.step)]
            self.page = PageOfARun(self.folder.path)
        self.open(resumed)
        self.evaluation.tell = lambda text: self.progress.tell(self.step, text)

    def fit(self) -> None:
        """Trains to the end and leaves the results in the run folder."""
        for line in self._announcement():
            self.note(line)
        self.train_step.loss.warn(*self.train_step.loss_size)  # a compiled one says nothing
        if self.step == 0:
            if self.config.eval.baselines and self.evaluation.queries is not None:
                self._untrained = copy.deepcopy(self.model.encoder.backbone)
        elif self._evaluation_was_cut_off():
            self._evaluate()
        self._compile_ahead()
        self.train()
        self._leave_results()

    def close(self) -> None:
        self.loader.close()
        self.evaluation.close()
        if self.world.is_main:
            for mirror in self.mirrors:
                mirror.close()
        super().close()

    # Start

    def _verify_images(self) -> None:
        """Looks for damaged public files, on the first rank, and ends all ranks if there is one."""
        files = public_files(self.config)
        wrong = wrong_file(files) if self.world.is_main else None
        if self.agreement.largest(int(wrong is not None)):
            self.agreement.fail(wrong or "")

    def _start(self) -> dict[str, Any]:
        """A line of ``starts.jsonl``."""
        return {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "step": self.step,
            "last_step": self.last_step,
            "epoch_steps": self.epoch_steps,
            "ranks": self.world.world_size,
            "device": self.world.device.type,
            "precision": self._precision(),
            "source": self.loader.source,
            "pictures": len(self.loader.images),
            "content": self._images["content"],
            **describe_environment(),
        }

    def _announcement(self) -> Iterator[str]:
        """The lines printed at the start."""
        images, held_out = self.loader.images, "none, so nothing is evaluated"
        if self.evaluation.queries is not None:
            queries = self.evaluation.queries.images
            held_out = f"{len(queries):,} in {queries.path}"
        yield f"run         {self.folder.path}" + (f", resumed at step {self.step}" if self.step else "")
        yield f"images      {len(images):,} in {images.path}, decoded by {self.loader.source}"
        yield f"held out    {held_out}"
        views, *larger = self.config.crops.stages
        yield (
            f"training    {self.config.model.arch}, views of {views} px, batch {self.batch_size} on "
            f"{self.world.world_size} x {self.world.device.type} in {self._precision()}"
        )
        if larger:
            yield "growing     " + ", then ".join(f"{stage} px from epoch {stage.epoch}" for stage in larger)
        sentence = shortage(self.config, self.world, self.train_step.dtype, free_bytes(torch.device("cpu")))
        if sentence:
            yield f"memory      {sentence}"
        if self.world.device.type == "cuda":
            yield self._gpu_memory()

    def _gpu_memory(self) -> str:
        """A line on the GPU's memory; ends all ranks where a step cannot fit."""
        ranks, memory = self.world.world_size, torch.cuda.get_device_properties(self.world.device).total_memory
        needed = least_gpu_bytes(self.config, ranks, self.train_step.dtype)
        sentence = gpu_shortage(self.config, ranks, needed, memory)
        if self.agreement.largest(int(sentence is not None)):
            self.agreement.fail(sentence or "another rank's GPU has less memory than a step needs")
        return f"memory      a step needs at least {needed / 1e9:.3g} GB of the GPU's {memory / 1e9:.3g} GB"

    def _precision(self) -> str:
        return str(self.train_step.dtype).removeprefix("torch.")

    def _draw_crops(self) -> None:
        try:
            draw_crops(self.loader, multi_crop(self.config.crops), self.folder.crops)
            for mirror in self.mirrors:
                mirror.show("crops", self.folder.crops, self.step)
        except OSError as error:
            self.warn(f"{self.folder.crops} could not be written ({error.strerror or error})")

    def _measure_baselines(self, untrained: nn.Module) -> None:
        baselines = {
            "chance": lambda: self.evaluation.chance,
            "raw pixels": self.evaluation.raw_pixels_top1,
            "untrained": lambda: self.evaluation.knn_top1(untrained, "untrained network"),
        }
        scores = {}
        for name, measure in baselines.items():
            scores[f"knn_top1_{name.replace(' ', '_')}"] = score = measure()
            shown = "the weights it starts from" if name == "untrained" and self.config.model.weights else name
            self.note(f"baseline    {self.config.eval.k}-nn accuracy {score:.1%}: {shown}")
        self.write(epoch=0, **scores)

    def _compile_ahead(self) -> None:
        """Compiles for the stages of crops that grow which are still to come; the clock counts it to the first step."""
        stages = [s for s in self.config.crops.stages if self.step < s.epoch * self.epoch_steps < self.last_step]
        if not stages or not self.train_step.compiled:
            return
        self.note("compiling   also for views of " + ", ".join(f"{stage} px" for stage in stages))
        with self.clock:
            self.train_step.compile_ahead([stage.sides for stage in stages])

    # The parts of the loop

    def batches(self) -> Iterator[Batch]:
        self.loader.set_position(*divmod(self.step, self.epoch_steps))
        return iter(self.loader)

    def train_on(self, batch: Batch) -> Tensor:
        return self.train_step(batch.views, self.step)

    def started(self, loss: Tensor) -> None:
        """Waits for the device once: what compiles and warms up counts apart.

        A run's crops are drawn and its baselines measured after it, not before, so that one that cannot train says so
        within its first seconds.
        """
        loss.item()
        seconds = self.clock.first_step()
        self.write(epoch=self.epochs, first_step_seconds=seconds)
        self.note(f"first step  {seconds:.1f} s, with compilation and warm-up; images/s leave it out")
        with self.clock.paused():
            if self.step == 1 and self.world.is_main:
                self._draw_crops()
            if self._untrained is not None:
                self._measure_baselines(self._untrained)
                self._untrained = None

    def measured(self) -> dict[str, Any]:
        seen = self.guard.reading(self.step)
        metrics: dict[str, Any] = {"loss": seen.loss, "lr": self.train_step.lr}
        if math.isfinite(seen.gradient_norm):  # it is not where fp16 overflowed, and JSON has no infinity
            metrics["gradient_norm"] = seen.gradient_norm
        if self.train_step.scaler.is_enabled():
            metrics |= {"skipped_steps": seen.skipped_steps, "loss_scale": seen.loss_scale}
        if self.world.is_main and self.spectrum.is_due(self.step, self.step == self.last_step):
            spectrum = self.spectrum.measure(self.train_step.embeddings[0], self.step)
            metrics |= spectrum | (self._loss_parts() if spectrum else {})  # nothing of a broken embedding
        return metrics

    def _loss_parts(self) -> dict[str, float]:
        """The last step's loss in its terms, computed once more, since a compiled loss gives their sum alone."""
        with torch.no_grad():
            parts = self.train_step.loss.parts(*self.train_step.embeddings)
        return {f"loss_{name}": value for name, part in parts.items() if math.isfinite(value := part.item())}

    def write(self, **values: Any) -> None:
        super().write(**values)
        if self.world.is_main:
            for mirror in self.mirrors:
                mirror.log(values, self.step)

    def pause(self) -> None:
        """Saves and evaluates where it is due: in this order, so that a long evaluation puts no step at risk."""
        is_last = self.step == self.last_step
        evaluates = self.evaluation.is_due(self.epochs, is_last)
        if is_last or evaluates or self.epochs % self.config.train.save_every == 0:
            self.save()
        self.guard.check(self.step)
        wish = self.preemption.agreed_at_once()
        if wish.stops and (evaluates or not is_last):
            self.stop(wish)
        if evaluates:
            self._evaluate()
        if self.world.is_main:
            self.page.refresh_if_due()

    def _evaluate(self) -> None:
        scores = self.evaluation.scores(self.model.encoder.backbone)
        self.agreement.wait()  # for the first rank, which alone trains classifiers, perhaps for an hour
        self.write(epoch=self.epochs, **scores)
        self.note(f"epoch {self.epochs:g}  {summary.accuracies(scores, self.config.eval.k)}")

    def _evaluation_was_cut_off(self) -> bool:
        """Whether the state resumed from is due for an evaluation that the run before did not come to."""
        if not self.evaluation.is_due(self.epochs, self.step == self.last_step):
            return False
        missing = self.world.is_main and not any(
            row["step"] == self.step and "knn_top1" in row for row in self.metrics.rows()
        )
        return self.agreement.largest(int(missing)) > 0

    # State and end

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.train_step.state_dict(),
            "pictures": self._images,
            "skipped_steps": self.guard.skipped_steps,
            "wandb_id": self.wandb_id,
            "config": configuration.to_yaml(self.config),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.train_step.load_state_dict(state)
        self.guard.skipped_steps, self.wandb_id = state["skipped_steps"], state["wandb_id"]

    def changed(self, state: Mapping[str, Any]) -> list[str]:
        return differences(self.config, configuration.from_yaml(state["config"]), "result")

    def images(self) -> dict[str, Any] | None:
        return self._images

    def explain(self, broken: BrokenStep) -> str:
        return explain(broken, self.train_step, self.loader, self.folder.nonfinite)

    def _leave_results(self) -> None:
        """Leaves the backbone, the summary and the report in the run folder, and prints the table."""
        self.progress.close()
        if not self.world.is_main:
            return
        results = summary.summarise(self.metrics.rows(), self.config, self.step, self.clock)
        problem = None
        try:
            write_atomically(self.model.encoder.backbone.state_dict(), self.folder.backbone)
            self.folder.write_summary(results)
        except OSError as error:
            problem = self.results_lost(error)
        refresh_report(self.folder.path)
        summary.print_table(results, self.config, self.folder.path)
        print(_what_next(self.config, self.folder.path, labelled=bool(results["knn_top1"])))
        self.save_points.require(self.step)
        if problem:
            raise problem


def _what_next(config: Config, folder: Path, labelled: bool) -> str:
    """Where to look, and the command of a linear probe if the images have labels."""
    page = f"page: {folder / 'report.html'}"
    if not labelled:
        return page
    neighbours, held_out = find_labelled(config), find(config, "val")
    protocol = [] if config.data.name == "imagenet" else ["--protocol", "small"]
    words = ["linear", folder, *protocol, "--train", neighbours, "--val", held_out]
    return f"{page}\nnext: fastintl {shlex.join(map(str, words))}"
