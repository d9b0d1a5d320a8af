"""What an evaluation tool is pointed at: a backbone in a file, and images to see with it."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.models.resnet import ResNet

from fastintl.data import center_crop, host_threads
from fastintl.distributed import World
from fastintl.evaluate.feature_file import StoredFeatures, load_features, write_features
from fastintl.evaluate.results import versions
from fastintl.runs.fingerprint import fingerprint
from fastintl.weights.backbone import backbone_of
from fastintl.weights.files import read_weights, sha256
from loaders import CenterCrop, Loader, make_loader
from loaders.sources import Images, open_images


@dataclass(frozen=True)
class Subject:
    """A backbone and how images are shown to it.

    Attributes:
        network: in evaluation mode.
        path, sha256: of its file.
        target: whether it is the EMA copy.
        crop: the view; from the run's configuration where the file has one.
    """

    network: ResNet
    path: Path
    sha256: str
    target: bool
    crop: CenterCrop

    def describe(self) -> dict[str, Any]:
        """Everything that changes its features."""
        return {
            "sha256": self.sha256,
            "arch": self.network.arch,
            "stem": self.network.stem,
            "target": self.target,
            **describe_view(self.crop),
        }


def describe_view(crop: CenterCrop) -> dict[str, Any]:
    """The numbers of a view as plain values; bilinear goes without saying, as when there was nothing else."""
    view = asdict(crop) | {"mean": list(crop.mean), "std": list(crop.std)}
    return {name: value for name, value in view.items() if (name, value) != ("interpolation", "bilinear")}


def open_subject(
    weights: str,
    arch: str | None = None,
    stem: str | None = None,
    target: bool = False,
    resize: int | None = None,
    size: int | None = None,
) -> Subject:
    """Loads a backbone as ``load_backbone`` does.

    Args:
        resize, size: of the centre crop. None: as in the run that wrote the file, or 256 and 224.
    """
    file = read_weights(weights)
    crop = CenterCrop() if file.config is None else center_crop(file.config)
    crop = replace(crop, resize=resize or crop.resize, size=size or crop.size)
    return Subject(backbone_of(file, arch, stem, target), file.path, sha256(file.path), target, crop)


@dataclass(frozen=True)
class Reading:
    """How images are read; changes no feature."""

    source: str = "auto"
    batch_size: int = 256
    threads: int = 0


def features_of(
    subject: Subject, data: Path, folder: Path, world: World, reading: Reading, flip_average: bool = False
) -> StoredFeatures:
    """The features of all images in ``data``, written to ``folder`` where they are not there yet.

    Raises:
        UserError: no images there, or the folder holds features of something else.
    """
    images = open_images(data)
    meta = {"backbone": str(subject.path), "data": str(data), **features_meta(subject, images, flip_average)}

    def open_loader(samples: np.ndarray) -> Loader:
        return make_loader(
            data,
            subject.crop,
            reading.batch_size,
            source=reading.source,
            device=world.device,
            rank=world.rank,
            world_size=world.world_size,
            threads=host_threads(reading.threads),
            samples=samples,
            quarantine=folder / "quarantine.txt",
        )

    write_features(folder, subject.network, open_loader, reading.batch_size, {**meta, "versions": versions()}, world)
    return load_features(folder)


def cached_features(
    subject: Subject, data: Path, cache: Path, world: World, reading: Reading, flip_average: bool = False
) -> StoredFeatures:
    """``features_of`` in a folder below ``cache`` whose name stands for all that the features depend on."""
    meta = features_meta(subject, open_images(data), flip_average)
    name = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    return features_of(subject, data, cache / name, world, reading, flip_average)


def features_meta(subject: Subject, images: Images, flip_average: bool) -> dict[str, Any]:
    """What the features of these images depend on, the images by their names and labels."""
    return {
        **subject.describe(),
        "flip_average": flip_average,
        "count": len(images),
        "pictures_sha256": fingerprint(images),
    }


def from_arguments(arguments: argparse.Namespace) -> tuple[Subject, Reading]:
    """The backbone and the reading that the options of ``arguments.add_subject`` describe."""
    names = ("weights", "arch", "stem", "target", "resize", "size")
    subject = open_subject(*(getattr(arguments, name) for name in names))
    return subject, Reading(arguments.source, arguments.batch_size, arguments.threads)
