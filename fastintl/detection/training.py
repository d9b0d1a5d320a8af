"""The training of a detector: set-up, and what happens at its log points, its tests and its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from torch import Tensor
from torchvision.models.resnet import ResNet

from fastintl.config.options import differences, dump
from fastintl.data import host_threads
from fastintl.detection.annotations import AnnotatedSet
from fastintl.detection.augment import Target
from fastintl.detection.average_precision import measure
from fastintl.detection.config import DetectionConfig, from_yaml
from fastintl.detection.inference import Detection, detect
from fastintl.detection.loader import TrainingLoader
from fastintl.detection.training_step import DetectionStep, average_statistics
from fastintl.distributed import World
from fastintl.runs.checkpoint import write_atomically
from fastintl.runs.fingerprint import description
from fastintl.runs.folder import RunFolder
from fastintl.runs.loss_guard import BrokenStep, LossGuard
from fastintl.runs.run import Run
from loaders.environment import describe_environment
from loaders.files import write_text

Batch = list[tuple[Tensor, Target]]


class DetectionTraining(Run):
    """One training on this rank. Its state is that of ``train_step`` and ``step``.

    Args:
        backbone: taken over and changed.
        origin: where the backbone comes from, plain values; a training resumes only with the same.
        train, test: images with objects of the same classes.

    Raises:
        UserError: the run's folder holds another training or cannot be written, or the batch does not fit.
    """

    is_otherwise = "are stored in other bytes, or have other boxes,"

    def __init__(
        self,
        config: DetectionConfig,
        backbone: ResNet,
        origin: Mapping[str, Any],
        train: AnnotatedSet,
        test: AnnotatedSet,
        world: World,
    ) -> None:
        super().__init__(world, RunFolder(config.folder), config.train.save_minutes)
        self.config, self.test = config, test
        self.origin = dict(origin)
        self._images = description(train, train.content() if world.is_main else None)
        self.threads = host_threads(config.data.threads)
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
        self.last_step, self.epoch_steps = config.optim.steps, len(self.loader)
        self.batch_size, self.log_every = config.train.batch_size, config.log.every
        self.train_step = DetectionStep(backbone, len(train.classes), config, world)
        self.guard = LossGuard(self.agreement)
        resumed = self.resume()
        if world.is_main:
            self.folder.create(dump(config), {"step": self.step, "ranks": world.world_size, **describe_environment()})
        self.open(resumed)
        for note in (*train.notes, *(f"of the test: {note}" for note in test.notes)):
            self.note(note)
        if resumed:
            self.note(f"{self.folder.path}: resumed at step {self.step}")

    def fit(self) -> tuple[dict[str, float], list[Detection]]:
        """Trains to the end and tests; the measured AP and the detections on the first rank, nothing on the others."""
        self.train()
        self.progress.close()
        metrics, detections = self._save_and_test(title="testing")
        self._leave_results(detections)
        return metrics, detections

    def close(self) -> None:
        self.loader.close()
        super().close()

    # The parts of the loop

    def batches(self) -> Iterator[Batch]:
        """The batches from here to the next test, or to the end."""
        start = self.step
        with closing(self.loader.batches(start)) as batches:
            for batch in batches:
                yield batch
                if self.config.eval.every > 0 and self.step % self.config.eval.every == 0:
                    return

    def train_on(self, batch: Batch) -> Tensor:
        return self.train_step(batch, self.step)

    def measured(self) -> dict[str, Any]:
        loss, *parts = self.guard.read(self.step).mean(dim=0).tolist()
        names = self.train_step.loss_names
        return {"loss": loss, "lr": self.train_step.lr, **dict(zip(names, parts, strict=True))}

    def pause(self) -> None:
        """Tests on the way, and leaves BatchNorm's statistics as they were: a training resumed here has not tested."""
        if self.step == self.last_step:
            return
        buffers = list(self.train_step.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        self._save_and_test()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

    def _save_and_test(self, title: str | None = None) -> tuple[dict[str, float], list[Detection]]:
        """In this order, so that a long test puts no step at risk.

        Args:
            title: above the test's own progress; None shows none.
        """
        self.save()
        if self.config.eval.precise_bn:
            with closing(self.loader.batches(self.step)) as batches:
                average_statistics(self.train_step, batches, self.config.eval.precise_bn, self.step)
        network, dtype = self.train_step.network, self.train_step.dtype
        detections = detect(network, self.test, self.world, dtype, self.threads, title)
        metrics = measure(self.config, self.test, detections) if self.world.is_main else {}
        self.write(epoch=self.epochs, **metrics)
        self.note(f"step {self.step}  " + "  ".join(f"{name} {value:.1%}" for name, value in metrics.items()))
        return metrics, detections

    # State and end

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.train_step.state_dict(),
            "origin": self.origin,
            "pictures": self._images,
            "config": dump(self.config),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.train_step.load_state_dict(state)

    def changed(self, state: Mapping[str, Any]) -> list[str]:
        keys = differences(self.config, from_yaml(state["config"]), "result")
        theirs = state["origin"]
        return keys + sorted(key for key in theirs | self.origin if theirs.get(key) != self.origin.get(key))

    def images(self) -> dict[str, Any]:
        return self._images

    def explain(self, broken: BrokenStep) -> str:
        return f"the loss is no longer a number at step {broken.number + 1}: lower optim.lr, or warm up longer"

    def _leave_results(self, detections: list[Detection]) -> None:
        if not self.world.is_main:
            return
        self.save_points.require(self.step)
        try:
            state = {"network": self.train_step.network.state_dict(), "classes": list(self.test.classes)}
            write_atomically(state, self.folder.path / "detector.pt")
            write_text(self.folder.path / "detections.json", json.dumps(detections))
        except OSError as error:
            raise self.results_lost(error) from error
