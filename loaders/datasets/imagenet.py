"""ImageNet-1k, its 100-class subset, and Tiny-ImageNet, from their public folder layouts."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from loaders.datasets.folder import FileReader, class_folders, class_tree, is_hidden
from loaders.datasets.split import Split, file_stamp, need
from loaders.errors import UserError

# Files that name the class of each validation image, for a val/ that still is one flat folder.
_KAGGLE_LABELS = "LOC_val_solution.csv"
_SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"
LAYOUT = (
    "imagenet expects ROOT/train/<wnid>/*.JPEG and ROOT/val/<wnid>/*.JPEG with the same class folders in "
    f"both; a flat ROOT/val/*.JPEG is taken if ROOT holds {_KAGGLE_LABELS} or {_SYNSET_LABELS}"
)
TINY_LAYOUT = (
    "tiny-imagenet expects ROOT/tiny-imagenet-200/ (or ROOT itself) with train/<wnid>/images/*.JPEG, "
    "val/images/*.JPEG and val/val_annotations.txt"
)


def imagenet_splits(root: Path) -> dict[str, Split]:
    """ILSVRC 2012 classification; labels are positions in the sorted list of WordNet ids (torchvision's)."""
    _need_folders(root)
    train = class_tree(root / "train")
    return {"train": train, "val": _validation(root, train.classes)}


def imagenet100_splits(root: Path) -> dict[str, Split]:
    """The 100 classes of ImageNet-100 from an ImageNet root."""
    _need_folders(root)
    missing = sorted(set(IMAGENET100_WNIDS) - set(class_folders(root / "train")))
    if missing:
        raise UserError(
            f"{root / 'train'} lacks {len(missing)} classes of ImageNet-100, {', '.join(missing[:3])}...; "
            "it takes the same root as imagenet"
        )
    classes = list(IMAGENET100_WNIDS)
    return {"train": class_tree(root / "train", classes, strict=False), "val": _validation(root, classes, strict=False)}


def tiny_imagenet_splits(root: Path) -> dict[str, Split]:
    """Tiny-ImageNet: 200 classes of 64 x 64 images."""
    need(root, "folder", TINY_LAYOUT)
    if (root / "tiny-imagenet-200").is_dir():
        root = root / "tiny-imagenet-200"
    train = class_tree(need(root / "train", "folder", TINY_LAYOUT))
    # Beside images/ each class folder holds a text file of bounding boxes.
    kept = [i for i, name in enumerate(train.names) if name.split("/")[1:2] == ["images"]]
    if not kept:
        raise UserError(f"{root / 'train'} holds no <wnid>/images/ folders; {TINY_LAYOUT}")
    names = [train.names[i] for i in kept]
    read = FileReader(root / "train", names)
    train = replace(train, names=names, labels=train.labels[kept], load=read, stats=read.stats)
    annotations = need(root / "val" / "val_annotations.txt", "file", TINY_LAYOUT)
    rows = [line.split("\t") for line in annotations.read_text().splitlines() if line]
    wnids = {row[0]: row[1] for row in rows if len(row) > 1}
    images = need(root / "val" / "images", "folder", TINY_LAYOUT)
    return {"train": train, "val": _labelled(images, wnids, train.classes, annotations)}


def _need_folders(root: Path) -> None:
    for folder in (root, root / "train", root / "val"):
        need(folder, "folder", LAYOUT)


def _validation(root: Path, classes: Sequence[str], strict: bool = True) -> Split:
    val = root / "val"
    if class_folders(val):
        return class_tree(val, classes, strict)
    if (root / _KAGGLE_LABELS).is_file():
        table = root / _KAGGLE_LABELS
        with open(table, newline="") as file:
            wnids = {f"{row[0]}.JPEG": row[1].split()[0] for row in list(csv.reader(file))[1:] if len(row) > 1}
    elif (root / _SYNSET_LABELS).is_file():
        table = root / _SYNSET_LABELS
        lines = table.read_text().split()
        wnids = {f"ILSVRC2012_val_{i:08d}.JPEG": wnid for i, wnid in enumerate(lines, start=1)}
    else:
        raise UserError(f"{val.absolute()} holds no class folders, and nothing says the images' classes; {LAYOUT}")
    return _labelled(val, wnids, classes, table, strict)


def _labelled(folder: Path, wnids: dict[str, str], classes: Sequence[str], table: Path, strict: bool = True) -> Split:
    """A flat folder whose classes a table gives; names are sorted as in a tree, by class and then by file."""
    found = [name for name in os.listdir(folder) if not is_hidden(name)]
    unlisted = sorted(name for name in found if name not in wnids)
    if unlisted:
        raise UserError(f"{folder / unlisted[0]} and {len(unlisted) - 1} more are not listed in {table}")
    index = {wnid: label for label, wnid in enumerate(classes)}
    strangers = sorted(set(wnids.values()) - set(index))
    if strangers and strict:
        raise UserError(f"{table} names the class {strangers[0]}, which the training images do not have")
    listed = sorted((index[wnids[name]], name) for name in found if wnids[name] in index)
    if not listed:
        raise UserError(f"there is no image of the {len(classes)} classes in {folder}")
    names = [name for _, name in listed]
    labels = np.array([label for label, _ in listed], np.int64)
    read = FileReader(folder, names)
    return Split(names, labels, list(classes), read, file_stamp([folder, table]), stats=read.stats)


# The 100 classes of ImageNet-100 (Tian et al., Contrastive Multiview Coding, 2020), sorted.
IMAGENET100_WNIDS = tuple(
    """
n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672 n01978455 n01980166
n01983481 n02009229 n02018207 n02085620 n02086240 n02086910 n02087046 n02089867 n02089973 n02090622
n02091831 n02093428 n02099849 n02100583 n02104029 n02105505 n02106550 n02107142 n02108089 n02109047
n02113799 n02113978 n02114855 n02116738 n02119022 n02123045 n02138441 n02172182 n02231487 n02259212
n02326432 n02396427 n02483362 n02488291 n02701002 n02788148 n02804414 n02859443 n02869837 n02877765
n02974003 n03017168 n03032252 n03062245 n03085013 n03259280 n03379051 n03424325 n03492542 n03494278
n03530642 n03584829 n03594734 n03637318 n03642806 n03764736 n03775546 n03777754 n03785016 n03787032
n03794056 n03837869 n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531
n04127249 n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653 n04485082 n04493381
n04517823 n04589890 n04592741 n07714571 n07715103 n07753275 n07831146 n07836838 n13037406 n13040303
""".split()
)
