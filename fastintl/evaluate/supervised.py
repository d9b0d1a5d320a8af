"""The training of a classifier on labelled images: what a linear probe on random crops and fine-tuning share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastintl.distributed import World
from fastintl.evaluate.accuracy import best
from fastintl.evaluate.backbone import EvaluatedBackbone, Reading
from fastintl.evaluate.epoch_loop import CONTENT, EpochLoop
from fastintl.evaluate.labels import count_classes
from fastintl.evaluate.results import Result
from fastintl.network.precision import autocast_dtype
from fastintl.runs.checkpoint import Checkpoints
from fastintl.runs.fingerprint import fingerprint
from loaders import Loader, UserError, random_crop_and_flip
from loaders.content import content_digest
from loaders.recipe import LEAST_AREA, Interpolation
from loaders.sources import open_images


@dataclass(frozen=True)
class SupervisedTraining:
    """What a classifier is trained and tested on, and where the state is kept.

    Attributes:
        train: training images, a ``.beton`` file or a folder ``class/image``.
        val: held-out images of the same classes.
        reading: how images are read; its batch size is that of the test.
        precision: number format of the backbone's forward pass, as ``autocast_dtype`` takes it.
        seed: what the order, the crops and the classifier's start are drawn from.
        crop_area: least share of an image that a training crop takes.
        crop_interpolation: how a training crop is resized.
        out: folder of the state. None: ``runs/<task>-<digest>``, the same for the same settings and images.
        save_minutes: save this often within an epoch, too.
        eval_every: test every so many epochs; 0: at the end only.

    Raises:
        UserError: ``crop_area`` is no share.
    """

    train: Path
    val: Path
    reading: Reading
    precision: str = "auto"
    seed: int = 0
    crop_area: float = LEAST_AREA
    crop_interpolation: Interpolation = "bilinear"
    out: Path | None = None
    save_minutes: float = 10.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.crop_area <= 1:
            raise UserError(f"--crop-area must be above 0 and at most 1, not {self.crop_area}")

    def run(
        self,
        task: str,
        name: str,
        backbone: EvaluatedBackbone,
        protocol: Any,
        stated: Mapping[str, Any],
        build: Callable[[int, torch.dtype], Any],
        world: World,
        samples: Sequence[int] = (),
    ) -> tuple[Any, dict[str, list[float]], Path, Result]:
        """Trains on random crops, from the last checkpoint where there is one, and tests on centre crops.

        Args:
            task: what was done, for the result.
            name: the first part of the folder's name, unless ``out`` gives the folder.
            protocol: a dataclass with ``epochs`` and ``batch_size`` among its fields.
            stated: what else changes the numbers, for the settings.
            build: makes what is trained (see ``Trainee``) from the number of classes and the number format of the
                forward pass; its ``accuracy`` takes a loader and gives what ``Accuracy.top`` gives.
            samples: ids of the training images whose labels are used; all, where there are none.

        Returns:
            What was trained, its accuracy (the same on every rank), the folder of the state, and the result.
        """
        images, held_out_images = open_images(self.train), open_images(self.val)
        classes = count_classes(images, held_out_images)  # before a source decodes them all
        dtype, crop = autocast_dtype(self.precision, world.device), backbone.crop
        crops = random_crop_and_flip(crop.size, crop.mean, crop.std, self.crop_area, self.crop_interpolation)
        options = {"dtype": dtype, "seed": self.seed}
        used = {"batch_size": protocol.batch_size, "samples": samples if len(samples) else None}
        train = self.reading.open_loader(images, crops, world, **used, **options)
        held_out = self.reading.open_loader(held_out_images, crop, world, **options)
        with closing(train), closing(held_out):
            trainee = build(classes, dtype)
            stated = {**stated, **asdict(protocol), "crop_area": self.crop_area}
            if self.crop_interpolation != "bicubic":  # which older versions always took and did not state
                stated["crop_interpolation"] = self.crop_interpolation
            settings = settings_of(stated, backbone, self.seed)
            identity = world.from_main(lambda: identity_of(settings, train, samples))
            folder = self.out or run_folder(name, identity)
            loop = EpochLoop(trainee, train, protocol.epochs, world, folder, identity, self.save_minutes, "training")
            count = len(train.images)
            loop.note(f"{len(samples) or count:,} of {count:,} labels, state in {folder}")

            def end_of_epoch(done: int) -> None:
                if self.eval_every and done % self.eval_every == 0 and done < protocol.epochs:
                    loop.note(f"epoch {done}  top-1 {best(trainee.accuracy(held_out))['top1']:.2%}")

            with closing(loop):
                loop.fit(end_of_epoch)
            accuracy = trainee.accuracy(held_out)
        data = {"train": self.train, "val": self.val}
        return trainee, accuracy, folder, Result(task, data, backbone.path, settings, best(accuracy))


def settings_of(protocol: Mapping[str, Any], backbone: EvaluatedBackbone | None, seed: int) -> dict[str, Any]:
    """Everything that changes the numbers beside the images, as plain values."""
    plain = json.loads(json.dumps(protocol))  # tuples become lists, as a checkpoint gives them back
    return {**plain, **(backbone.describe() if backbone else {}), "seed": seed}


def identity_of(settings: Mapping[str, Any], train: Loader, samples: Sequence[int] = ()) -> dict[str, Any]:
    """What a training is resumed by: its settings, its images (or which of them), and an epoch's steps."""
    images = train.images
    pictures = {"pictures": fingerprint(images, samples), CONTENT: content_digest(images)}
    return {**settings, **pictures, "steps an epoch": len(train)}


def run_folder(task: str, identity: Mapping[str, Any]) -> Path:
    """The default folder of a training's state: the same for the same identity, so that it resumes.

    A training that an older version began, which did not note the images' content, keeps the name that it has.
    """
    of_older = {key: value for key, value in identity.items() if key != CONTENT}
    folder, older = (Path("runs") / f"{task}-{_digest(known)}" for known in (identity, of_older))
    if not folder.exists() and older.exists():
        state = Checkpoints(older).load_latest()
        if state and state["settings"].get(CONTENT, identity[CONTENT]) == identity[CONTENT]:
            return older
    return folder


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
