"""The training of a detector: set-up, the loop, and what happens at its log, save and test points."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from torch import Tensor
from torchvision.models.resnet import ResNet

from fastintl.config import options as configfile
from fastintl.data import host_threads
from fastintl.detection import config as detection_config
from fastintl.detection.annotations import AnnotatedSet
from fastintl.detection.augment import Target
from fastintl.detection.average_precision import measure
from fastintl.detection.config import DetectionConfig
from fastintl.detection.inference import Detection, detect
from fastintl.detection.loader import TrainingLoader
from fastintl.detection.loss_guard import LossWatch
from fastintl.detection.training_step import DetectionStep, average_statistics
from fastintl.distributed import World
from fastintl.distributed.agreement import Agreement
from fastintl.distributed.preemption import Preemption
from fastintl.runs.checkpoint import Checkpoints, write_atomically
from fastintl.runs.clock import Clock, TrainingProgress, gpu_memory
from fastintl.runs.fingerprint import description, difference
from fastintl.runs.folder import RunFolder, write_text
from fastintl.runs.metrics_file import MetricsFile
from fastintl.runs.resuming import load_latest, take_folder
from fastintl.runs.run_end import stop_for_requeue
from fastintl.runs.save_points import SavePoints
from loaders.environment import surroundings
from loaders.errors import UserError

# A training may move, run elsewhere, or be tested and logged differently, and is still the same.
_MAY_DIFFER = (
    "name", "out", "data.root", "data.threads", "data.test", "views.test_size", "model.proposals_test", "train.device",
    "train.save_minutes", "eval.", "log.",
)  # fmt: skip


class DetectionTraining:
    """One training on this rank. Its state is that of ``train_step`` and ``step``.

    Args:
        backbone: taken over and changed.
        origin: what the backbone is, plain values; a training resumes only from the same.
        train, test: of the same classes.

    Raises:
        UserError: the run's folder holds another training or cannot be written, or the batch does not fit.
    """

    def __init__(
        self,
        config: DetectionConfig,
        backbone: ResNet,
        origin: Mapping[str, Any],
        train: AnnotatedSet,
        test: AnnotatedSet,
        world: World,
    ) -> None:
        self.config, self.test, self.world = config, test, world
        self.origin, self.images = dict(origin), description(train)
        self.threads = host_threads(config.data.threads)
        self.folder = RunFolder(config.folder)
        self.checkpoints = Checkpoints(self.folder.checkpoints)
        self.loader = TrainingLoader(
            train,
            config.views,
            config.model.masks,
            config.train.batch_size,
            config.seed,
            world.rank,
            world.world_size,
            self.threads,
        )
        self.train_step = DetectionStep(backbone, len(train.classes), config, world)
        self.agreement = Agreement(world)
        self.guard = LossWatch(self.agreement)
        self.preemption = Preemption(self.agreement)
        self.clock = Clock()
        self.step = 0
        self.lock = take_folder(self.folder, world, self.agreement)
        resumed = self._resume()
        self.progress = TrainingProgress(config.optim.steps, self.step, shown=world.is_main)
        if world.is_main:
            self.folder.create(config, {"step": self.step, "ranks": world.world_size, **surroundings()})
            self.metrics = MetricsFile(self.folder.metrics, self.step if resumed else -1, self._warn)
        saved = self.step if resumed else None
        self.save_points = SavePoints(self.checkpoints, config.train.save_minutes, saved, self._warn)
        for note in train.notes:
            self.progress.note(note)
        if resumed:
            self.progress.note(f"{self.folder.path}: resumed at step {self.step}")

    def fit(self) -> tuple[dict[str, float], list[Detection]]:
        """Trains to the end and tests; the measured AP and the detections on the first rank, nothing on the others."""
        with self.preemption:
            while self.step < self.config.optim.steps:
                with closing(self._batches()) as batches:
                    for batch in batches:
                        self._take_step(batch)
                        if self._is_test_due() or self.step == self.config.optim.steps:
                            break
                if self.step < self.config.optim.steps:
                    self._test_on_the_way()
        self.progress.close()
        metrics, detections = self._save_and_test(title="testing")
        self._leave_results(detections)
        return metrics, detections

    def close(self) -> None:
        self.progress.close()
        self.loader.close()
        if self.lock:
            self.lock.close()

    # Set-up

    def _resume(self) -> bool:
        """Takes up the newest checkpoint, on every rank; False if there is none."""
        state = load_latest(self.checkpoints, self.agreement)
        if state is None:
            return False
        self._refuse_another(state)
        self.train_step.load_state_dict(state)
        self.clock.load_state_dict(state["clock"])
        self.step = state["step"]
        return True

    def _refuse_another(self, state: Mapping[str, Any]) -> None:
        saved = detection_config.from_yaml(state["config"])
        changed = [key for key in configfile.differences(self.config, saved) if not key.startswith(_MAY_DIFFER)]
        theirs = state["origin"]
        changed += sorted(key for key in theirs | self.origin if theirs.get(key) != self.origin.get(key))
        if changed:
            raise UserError(
                f"{self.folder.path} holds a training with another {', '.join(changed)}: give this one a name of its "
                "own (name=…), or remove the folder to start again"
            )
        if other := difference(state["pictures"], self.images):
            raise UserError(
                f"{self.folder.path} holds a training on {other}: they are not the same dataset; give this one a name "
                "of its own (name=…)"
            )

    # The points of the loop

    def _batches(self) -> Iterator[list[tuple[Tensor, Target]]]:
        """The batches from here on; the clock runs while they are trained on."""
        with closing(self.loader.batches(self.step)) as batches, self.clock:
            while True:
                start = time.perf_counter()
                batch = next(batches)
                self.clock.count(self.config.train.batch_size, time.perf_counter() - start)
                yield batch

    def _take_step(self, batch: list[tuple[Tensor, Target]]) -> None:
        self.guard.see(self.train_step(batch, self.step))
        self.step += 1
        if self.step % self.config.log.every == 0 or self.step == self.config.optim.steps:
            self._log()
        if self.preemption.agreed():
            stop_for_requeue(self)

    def _log(self) -> None:
        loss, *parts = self.guard.check(self.step)
        metrics = {"loss": loss, "lr": self.train_step.lr, **dict(zip(self.train_step.loss_names, parts, strict=True))}
        metrics |= self.clock.read() | gpu_memory(self.world.device)
        self._write(**metrics)
        rate = self.clock.images_per_second
        left = (self.config.optim.steps - self.step) * self.config.train.batch_size
        self.progress.update(self.step, self.step // len(self.loader), metrics, rate and left / rate)
        if self.save_points.due():  # here alone, where no loss is known to be broken
            self.save()

    def _is_test_due(self) -> bool:
        return self.config.eval.every > 0 and self.step % self.config.eval.every == 0

    def _test_on_the_way(self) -> None:
        """Leaves BatchNorm's statistics as they were: a training that is resumed from here has not tested."""
        buffers = list(self.train_step.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        self._save_and_test()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

    def _save_and_test(self, title: str | None = None) -> tuple[dict[str, float], list[Detection]]:
        """In this order, so that a long test puts no step at risk; ``title`` is that of its own progress."""
        self.guard.check(self.step)
        self.save()
        if self.config.eval.precise_bn:
            with closing(self.loader.batches(self.step)) as batches:
                average_statistics(self.train_step, batches, self.config.eval.precise_bn, self.step)
        network, dtype = self.train_step.network, self.train_step.dtype
        detections = detect(network, self.test, self.world, dtype, self.threads, title)
        metrics = measure(self.config, self.test, detections) if self.world.is_main else {}
        self._write(**metrics)
        self.progress.note(f"step {self.step}  " + "  ".join(f"{name} {value:.1%}" for name, value in metrics.items()))
        return metrics, detections

    def _write(self, **values: Any) -> None:
        if self.world.is_main:
            self.metrics.write(step=self.step, epoch=self.step / len(self.loader), **values)

    def save(self) -> None:
        """Writes the state, on the first rank."""
        if self.world.is_main:
            self.save_points.save(self._state, self.step, None)

    def _state(self) -> dict[str, Any]:
        return {
            **self.train_step.state_dict(),
            "step": self.step,
            "clock": self.clock.state_dict(),
            "origin": self.origin,
            "pictures": self.images,
            "config": configfile.dump(self.config),
        }

    def _leave_results(self, detections: list[Detection]) -> None:
        if not self.world.is_main:
            return
        self.save_points.require(self.step)
        try:
            state = {"network": self.train_step.network.state_dict(), "classes": list(self.test.classes)}
            write_atomically(state, self.folder.path / "detector.pt")
            write_text(self.folder.path / "detections.json", json.dumps(detections))
        except OSError as error:
            raise UserError(
                f"the results could not be written to {self.folder.path} ({error.strerror}): make room there and start "
                "the same command again"
            ) from error

    def _warn(self, sentence: str) -> None:
        self.progress.note(f"warning: {sentence}")
