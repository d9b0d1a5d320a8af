"""From the configuration to loaders: where the pictures lie, and how they are cropped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from fastintl.config import Config, Crops
from fastintl.distributed import World
from loaders import CenterCrop, CropSpec, Loader, MultiCrop, UserError, make_loader


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
    return MultiCrop(specs, crops.mean, crops.std)


def center_crop(config: Config) -> CenterCrop:
    """The recipe of the evaluation view."""
    return CenterCrop(config.eval.resize, config.eval.size, config.crops.mean, config.crops.std)


def find(config: Config, split: str) -> Path | None:
    """Where a split's pictures are.

    Args:
        split: ``"train"`` or ``"val"``.

    Returns:
        A ``.beton`` file or a class folder; None if there is no held-out split.

    Raises:
        UserError: the configuration names no place, or there is nothing at the place it names.
    """
    data = config.data
    given = getattr(data, split)
    if given is not None:
        if not Path(given).exists():
            raise UserError(f"data.{split}={given}: no such file or folder")
        return Path(given)
    if data.root is None:
        if split == "val":
            return None
        raise UserError("no pictures given: set data.root to the folder of the data set, or data.train to a file")
    root = Path(data.root)
    candidates = [root / f"{data.name}_{split}.beton", root / split]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if split == "val":
        return None
    raise UserError(
        f"data.root={root} holds neither {candidates[0].name} nor a folder {split}: write the file with "
        f"python tools/write_ffcv.py {data.name} --out {root}, or set data.root to the right place"
    )


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
    config: Config, path: Path, world: World, quarantine: Path, samples: np.ndarray | None = None
) -> Loader:
    """The centre-crop loader of this rank: every picture of ``path`` (or of ``samples``) once, in order."""
    shared = _shared(config, world, quarantine)
    return make_loader(path, center_crop(config), config.eval.batch_size, samples=samples, **shared)


def host_threads(asked: int) -> int:
    """Threads of this rank's loader; 0 asks for its share of the cores that the ranks on this host may use."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
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
