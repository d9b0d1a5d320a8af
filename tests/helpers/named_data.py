"""Miniatures of the data, weights and runs that README.md and docs/ name, at the very places that they name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torchvision.models import resnet50

from loaders.datasets.imagenet import IMAGENET100_WNIDS
from tests.detection_sets import write_coco, write_voc
from tests.helpers import layouts
from tests.helpers.documents import ROOT
from tests.helpers.images import write_image
from tests.helpers.public_layouts import write_cifar10, write_cifar100, write_stl10, write_tiny_imagenet

CODE = ("Makefile", "constraints.txt", "docs", "fastintl", "hubconf.py", "loaders", "rcfgs", "tests", "tools")
# The pages' absolute paths; the only words of a command that are replaced.
PLACES = {"/path/to/imagenet": "imagenet", "/data/imagenet": "imagenet", "/path/to/the/two/tars": "imagenet_tars"}
# What a command takes and no command before it makes, and what is taken for it.
STAND_INS = {
    "runs/a": "runs/mine",
    "runs/b": "runs/small",
    "runs/ep200": "runs/ep100",
    "runs/demo": "runs/small",
    "photographs_train.beton": "data/folder_train.beton",
}
# docs/method.md: six runs of one recipe with different losses.
METHOD_RUNS = ("intl", "intl_no_trace", "cw_rgp_2", "cw_rgp_2_one_group", "cw_rgp_4", "barlow_twins")
STAND_INS |= {f"runs/{name}": "runs/small" for name in METHOD_RUNS}


def link_code(root: Path) -> None:
    """What the commands need of a clone."""
    root.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        (root / name).symlink_to(ROOT / name)


def lay_out(root: Path) -> None:
    """Writes the miniatures below ``root``; what is there already stays."""
    for name, write in _WRITERS.items():
        path = root / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)


def placed(words: Sequence[str]) -> list[str]:
    """The words of a command with the absolute paths of ``PLACES`` replaced."""
    for path, name in PLACES.items():
        words = [word.replace(path, name) for word in words]
    return list(words)


def stand_in(root: Path, words: Sequence[str]) -> dict[str, str]:
    """Puts what a command names and no command has made into its place; returns what stands for what in it."""
    found = {path: name for path, name in PLACES.items() if any(path in word for word in words)}
    for name in sorted(STAND_INS.keys() & set(words)):
        path, other = root / name, root / STAND_INS[name]
        if not path.exists() and other.exists():
            path.symlink_to(other.absolute())
        if path.is_symlink():
            found[name] = STAND_INS[name]
    return found


def write_images(root: Path) -> None:
    """96 of three classes."""
    for i in range(96):
        write_image(root / f"class{i % 3}" / f"{i:03}.jpg", 48, 64, seed=i)


def _write_imagenet(root: Path) -> None:
    """The classes of ImageNet-100 and two more, with two training images and a held-out one each."""
    for seed, wnid in enumerate(["n01440764", "n01484850", *IMAGENET100_WNIDS]):
        for part, names in (("train", (f"{wnid}_1", f"{wnid}_2")), ("val", (f"ILSVRC2012_val_{seed:08}",))):
            for name in names:
                write_image(root / part / wnid / f"{name}.JPEG", 48, 64, seed)


def _write_imagenet_tars(root: Path) -> None:
    root.mkdir()
    files = layouts.files_of(root.parent / "imagenet" / "train")
    layouts.write_tar_of_tars(root / "ILSVRC2012_img_train.tar", files)
    held_out = sorted((root.parent / "imagenet" / "val").glob("*/*"))
    named = {f"ILSVRC2012_val_{i:08}.JPEG": path.read_bytes() for i, path in enumerate(held_out, 1)}
    layouts.write_tar(root / "ILSVRC2012_img_val.tar", named)
    numbers = {path.parent.name: number for number, path in enumerate(held_out, 1)}
    layouts.write_devkit(root, numbers, list(numbers.values()))


def _write_photos(root: Path) -> None:
    for i in range(24):
        write_image(root / f"{i:03}.jpg", 48, 64, seed=i)


def _write_subset(path: Path) -> None:
    """A list as ImageNet's public 1 %: a training image of each class."""
    train = path.parent / "imagenet" / "train"
    path.write_text("".join(f"{folder.name}_1.JPEG\n" for folder in sorted(train.iterdir())))


def _write_voc(root: Path) -> None:
    write_voc(root, 16, 8)
    shutil.copytree(root / "VOC2007", root / "VOC2012")


def _write_authors_checkpoint(path: Path) -> None:
    """A ResNet-50 as INTL's code saves it, untrained."""
    weights = {key: value for key, value in resnet50().state_dict().items() if not key.startswith("fc.")}
    names = ("module.backbone.", "module.momentum_backbone.")
    state = {f"{prefix}{key}": value for prefix in names for key, value in weights.items()}
    torch.save({"epoch": 100, "arch": "resnet50", "state_dict": state}, path)


_WRITERS: dict[str, Callable[[Path], object]] = {
    "images": write_images,
    "photos": _write_photos,
    "shards": lambda root: layouts.write_shards(root, layouts.files_of(root.parent / "images")),
    "cats/data": lambda root: layouts.write_parquet(
        root / "train.parquet", layouts.files_of(root.parents[1] / "images")
    ),
    "imagenet": _write_imagenet,
    "imagenet_tars": _write_imagenet_tars,
    "data/ImageNet": lambda path: path.symlink_to(path.parent.parent.absolute() / "imagenet"),
    "subset.txt": _write_subset,
    "data/cifar10": lambda root: write_cifar10(root, per_batch=20, held_out=20),
    "data/cifar100": lambda root: write_cifar100(root, train=100, held_out=20),
    "data/stl10": lambda root: write_stl10(root, train=20, unlabelled=40, held_out=10),
    "data/tiny-imagenet": lambda root: write_tiny_imagenet(root, per_class=20),
    "VOCdevkit": _write_voc,
    "coco": lambda root: write_coco(root, 16, 8),
    "ckpt_INTL.pth.tar": _write_authors_checkpoint,
}
