"""From the configuration to loaders: where the images lie, and how they are cropped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fastintl.config import Config, Crops
from fastintl.distributed import World
from fastintl.distributed.world import environment_number
from fastintl.weights.view import center_crop
from loaders import CropSpec, Loader, MultiCrop, UserError, make_loader
from loaders.datasets.catalogue import WITH_UNLABELLED, Reference
from loaders.datasets.folder import class_folders
from loaders.datasets.imagenet import lies_in_tar
from loaders.datasets.places import is_place
from loaders.datasets.public_files import verify
from loaders.sources import Images

_SPLITS = ("train", "train_labelled", "val")


def multi_crop(crops: Crops) -> MultiCrop:
    """The recipe of the training views."""
    views = zip(crops.sizes, crops.scales, crops.blur, crops.solarize, strict=True)
    specs = tuple(
        CropSpec(
            size=size,
            scale=scale,
            ratio=crops.ratio,
            flip=crops.flip,
            jitter=crops.jitter,
            brightness=crops.brightness,
            contrast=crops.contrast,
            saturation=crops.saturation,
            hue=crops.hue,
            grayscale=crops.grayscale,
            blur=blur,
            blur_sigma=crops.blur_sigma,
            solarize=solarize,
        )
        for size, scale, blur, solarize in views
    )
    return MultiCrop(specs, crops.mean, crops.std, crops.interpolation, crops.growth)


def find(config: Config, split: str) -> Path | None:
    """Where a split's images are.

    Args:
        split: ``"train"``, ``"val"``, or ``"train_labelled"``, the part of train that has labels.

    Returns:
        What ``open_images`` takes: a ``.beton`` file, a folder, tars or a split of a dataset's public files. None
        if there is no held-out split, or no other labelled one than train.

    Raises:
        UserError: the configuration names no place, or there is nothing at the place it names.
    """
    data = config.data
    given = getattr(data, split)
    if given is not None:
        if Reference.parse(given) is None and not is_place(Path(given)):
            raise UserError(f"data.{split}={given}: no such file or folder")
        return Path(given)
    if split == "train_labelled" and data.train is not None:
        return None
    if data.root is None:
        if split != "train":
            return None
        raise UserError("no images given: set data.root to the folder of the dataset, or data.train to a file")
    return _in_root(Path(data.root), data.name, split)


def find_labelled(config: Config) -> Path | None:
    """Where the training images with labels are: the part of train that has them, or else all of it."""
    return find(config, "train_labelled") or find(config, "train")


def _in_root(root: Path, name: str, split: str) -> Path | None:
    file, folder = root / f"{name}_{split}.beton", root / split
    if file.exists():
        return file
    is_flat = name == "imagenet" and split == "val" and folder.is_dir() and not class_folders(folder)
    in_tar = name == "imagenet" and split in ("train", "val") and lies_in_tar(root, split)
    if is_flat or in_tar or _is_public(root, name):
        has_split = split != "train_labelled" or name in WITH_UNLABELLED
        return Path(str(Reference(name, split, root))) if has_split else None
    if folder.exists():
        return folder
    if split != "train":
        return None
    raise UserError(
        f"data.root={root} holds neither {file.name} nor a folder {split}: set data.root to the right place, "
        f"data.train={root} if its folders are classes of images, or write the file with "
        f"python tools/write_ffcv.py {name} --root FOLDER --out {root}"
    )


def _is_public(root: Path, name: str) -> bool:
    """Whether a root is to be read as the public files of a dataset that are not just class folders."""
    if (root / f"{name}_train.beton").exists():
        return False
    if name in ("imagenet100", "tiny-imagenet"):  # their train/ holds more than their classes and images
        return True
    return name in ("cifar10", "cifar100", "stl10") and not (root / "train").exists()


def public_files(config: Config) -> list[tuple[str, Path]]:
    """The datasets whose public files the run reads and shall verify, by name and root; errors as ``find``."""
    if not config.data.verify:
        return []
    references = (Reference.parse(str(find(config, split))) for split in _SPLITS)
    return sorted({(reference.name, reference.root) for reference in references if reference})


def wrong_file(files: Sequence[tuple[str, Path]]) -> str | None:
    """A sentence on the first of ``public_files`` that is not the published one; None if all are."""
    try:
        for name, root in files:
            verify(name, root)
    except UserError as error:
        return f"{error}, or set data.verify=false to train on it as it is"
    return None


def training_loader(config: Config, world: World, quarantine: Path, dtype: torch.dtype) -> Loader:
    """The multi-crop loader of this rank, its views in ``dtype``."""
    return make_loader(
        find(config, "train"),
        multi_crop(config.crops),
        config.train.batch_size,
        dtype=dtype,
        seed=config.seed,
        **_shared(config, world, quarantine),
    )


def evaluation_loader(
    config: Config, data: Path | Images, world: World, quarantine: Path, samples: np.ndarray | None = None
) -> Loader:
    """The centre-crop loader of this rank: every image of ``data`` (or of ``samples``) once, in order."""
    shared = _shared(config, world, quarantine)
    return make_loader(data, center_crop(config), config.eval.batch_size, samples=samples, **shared)


def host_threads(asked: int) -> int:
    """Threads of this rank's loader; 0 asks for its share of the cores that the ranks on this host may use."""
    ranks_here = environment_number("LOCAL_WORLD_SIZE", 1, least=1)
    return asked or max(1, len(os.sched_getaffinity(0)) // ranks_here)


def _shared(config: Config, world: World, quarantine: Path) -> dict:
    return {
        "source": config.data.source,
        "device": world.device,
        "rank": world.rank,
        "world_size": world.world_size,
        "threads": host_threads(config.data.threads),
        "hardware_share": config.data.hardware_share,
        "max_bad": config.data.max_bad,
        "quarantine": quarantine,
    }
