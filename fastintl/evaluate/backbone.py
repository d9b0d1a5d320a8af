"""The start of an evaluation: a backbone, the view of an image that it is given, and how images are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastintl.config import Config
from fastintl.data import find, find_labelled, host_threads
from fastintl.distributed import World
from fastintl.network.model import Backbone, build_backbone, stem_of
from fastintl.weights.backbone import backbone_of
from fastintl.weights.files import read_weights
from loaders import CenterCrop, Loader, MultiCrop, UserError, make_loader
from loaders.sources import Images


@dataclass(frozen=True)
class EvaluatedBackbone:
    """A backbone and the view of an image that it is given.

    Attributes:
        network: the backbone in evaluation mode, (B, 3, s, s) -> (B, feature_dim).
        crop: the view; from the run's configuration where the file of weights has one.
        path: the file of weights; None for a new network.
        sha256: the SHA-256 of that file in hexadecimal.
        target: whether the network is the EMA copy.
        config: the configuration of the run that wrote the file; None for other projects' files.
    """

    network: Backbone
    crop: CenterCrop
    path: Path | None = None
    sha256: str | None = None
    target: bool = False
    config: Config | None = None

    @property
    def origin(self) -> dict[str, Any]:
        """Which network it is and where its weights come from, as plain values."""
        weights = {"from_scratch": True} if self.path is None else {"sha256": self.sha256, "target": self.target}
        return {"arch": self.network.arch, "stem": stem_of(self.network), **weights}

    def describe(self) -> dict[str, Any]:
        """Everything that changes its features, as plain values."""
        view = asdict(self.crop) | {"mean": list(self.crop.mean), "std": list(self.crop.std)}
        if self.crop.interpolation == "bilinear":  # which older versions always took and did not state
            del view["interpolation"]
        return self.origin | view


def open_backbone(
    weights: str,
    arch: str | None = None,
    stem: str | None = None,
    target: bool = False,
    resize: int | None = None,
    size: int | None = None,
) -> EvaluatedBackbone:
    """Loads a backbone as ``load_backbone`` does.

    Args:
        resize, size: pixels of the shorter side and of the centre crop. None: as in the run that wrote the file, or
            256 and 224.
    """
    file = read_weights(weights)
    crop = file.view or CenterCrop()
    crop = replace(crop, resize=resize or crop.resize, size=size or crop.size)
    digest = file.sha256()
    return EvaluatedBackbone(
        backbone_of(file, arch, stem, target, (crop.size,)), crop, file.path, digest, target, file.config
    )


def images_for(backbone: EvaluatedBackbone | None, train: Path | None, val: Path | None) -> tuple[Path, Path]:
    """Where the training and the held-out images are: as given, else those that the backbone's run had.

    A training image needs a label here: of a set that is labelled in part, it is the part that has labels.

    Raises:
        UserError: nothing says where they are, or the run's are no longer there.
    """
    config = backbone.config if backbone is not None else None
    if config is not None and None in (train, val):
        try:
            train = train or find_labelled(config)
            val = val or find(config, "val")
        except UserError as error:
            raise UserError(f"{error} (as the run of {backbone.path} says; or give --train and --val)") from error
    for option, place in (("--train", train), ("--val", val)):
        if place is None:
            raise UserError(f"no run says where the images are: give {option}")
    return train, val


def new_backbone(
    arch: str | None, stem: str | None, seed: int, resize: int | None = None, size: int | None = None
) -> EvaluatedBackbone:
    """A backbone that nothing has trained, drawn from ``seed``; None stands for resnet50, imagenet, 256 and 224."""
    torch.manual_seed(seed)
    crop = CenterCrop(resize or 256, size or 224)
    network = build_backbone(arch or "resnet50", stem or "imagenet", sizes=(crop.size,)).eval()
    return EvaluatedBackbone(network, crop)


@dataclass(frozen=True)
class Reading:
    """How images are read; changes no feature.

    Attributes:
        source: the reader, one of ``loaders.sources.choice.SOURCES``, or "auto".
        batch_size: images of all ranks at a time.
        threads: decoding threads of this rank; 0: its share of the cores.
    """

    source: str = "auto"
    batch_size: int = 256
    threads: int = 0

    def open_loader(self, data: Path | Images, recipe: MultiCrop | CenterCrop, world: World, **options: Any) -> Loader:
        """This rank's loader of ``data``; ``options`` are further ones of ``make_loader``."""
        return make_loader(
            data,
            recipe,
            **{"batch_size": self.batch_size, **options},
            source=self.source,
            device=world.device,
            rank=world.rank,
            world_size=world.world_size,
            threads=host_threads(self.threads),
        )
