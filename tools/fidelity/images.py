"""The images that both sides see: opened where the user has them, and a part of them written down for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loaders.beton.convert import convert
from loaders.datasets.split import Split
from loaders.errors import UserError
from loaders.sources import Images, open_images
from tools.benchmark.first_images import balanced


@dataclass(frozen=True)
class Part:
    """A set of CIFAR images for both sides.

    Attributes:
        path: our file of them, the pixels as they are.
        pixels: (n, 32, 32, 3) uint8.
        labels: (n,) int64.
    """

    path: Path
    pixels: Tensor
    labels: Tensor


def cifar(root: Path, count: int, folder: Path) -> tuple[Part, Part]:
    """The first ``count`` training images of CIFAR-10, as many of each class, and all test images.

    Args:
        root: of the public files (see ``download.py``), or of class folders ``train/`` and ``val/`` or ``test/``.
        folder: for our files.

    Raises:
        UserError: no such images, or fewer than ``count``.
    """
    trees = [root / name for name in ("train", "val", "test") if (root / name).is_dir()]
    train, held_out = trees[:2] if len(trees) > 1 else (f"cifar10:train@{root}", f"cifar10:val@{root}")
    return _part(open_images(train), count, folder, "train"), _part(open_images(held_out), None, folder, "val")


def photographs(root: Path, count: int) -> list[Tensor]:
    """Images of any sizes, uint8 (H, W, 3): those of a folder, again and again until they are ``count``."""
    images = open_images(root)
    decoded = [images.decode(index) for index in range(min(count, len(images)))]
    return [decoded[index % len(decoded)] for index in range(count)]


def _part(images: Images, count: int | None, folder: Path, name: str) -> Part:
    chosen = balanced(images.labels, count) if count else range(len(images))
    if count and len(chosen) < count:
        raise UserError(f"{images.path} has no {count} images with as many of each class: give a smaller --images")
    pixels = torch.stack([images.decode(int(index)) for index in chosen])
    labels = np.array([images.labels[index] for index in chosen], np.int64)
    path = folder / f"{name}_{len(chosen)}.beton"
    source = f"{images.path}"
    split = Split(
        [images.names[i] for i in chosen], labels, list(images.classes), lambda i: pixels[i].numpy(), source, True
    )
    convert(split, path)
    return Part(path, pixels, torch.from_numpy(labels))
