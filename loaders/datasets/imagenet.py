"""ImageNet-1k, its 100-class subset, and Tiny-ImageNet, from their public folder layouts or ImageNet's own tars."""

from __future__ import annotations

import csv
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from loaders.datasets.folder import FileReader, class_folders, class_tree, is_hidden, take
from loaders.datasets.split import Split, file_stamp, need
from loaders.datasets.tars import tar_split
from loaders.errors import UserError

# Files that name the class of each validation image, for a val/ that still is one flat folder.
_KAGGLE_LABELS = "LOC_val_solution.csv"
_SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"
_DEVKIT = "ILSVRC2012_devkit_t12"  # a folder, or .tar.gz
_TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}  # as they are published
LAYOUT = (
    "imagenet expects ROOT/train/<wnid>/*.JPEG and ROOT/val/<wnid>/*.JPEG with the same class folders in "
    f"both; a flat ROOT/val/*.JPEG is taken if ROOT holds {_KAGGLE_LABELS}, {_SYNSET_LABELS} "
    f"or {_DEVKIT}.tar.gz; {_TARS['train']} and {_TARS['val']} stand for the two folders"
)
TINY_LAYOUT = (
    "tiny-imagenet expects ROOT/tiny-imagenet-200/ (or ROOT itself) with train/<wnid>/images/*.JPEG, "
    "val/images/*.JPEG and val/val_annotations.txt"
)


def imagenet_splits(root: Path) -> dict[str, Split]:
    """ILSVRC 2012 classification; labels are positions in the sorted list of WordNet ids (torchvision's)."""
    train = _train(root)
    return {"train": train, "val": _validation(root, train.classes)}


def imagenet100_splits(root: Path) -> dict[str, Split]:
    """The 100 classes of ImageNet-100 from an ImageNet root."""
    classes = list(IMAGENET100_WNIDS)
    return {"train": _train(root, classes), "val": _validation(root, classes, strict=False)}


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
    return {"train": train, "val": _labelled(_flat(images), images, wnids, train.classes, annotations)}


def lies_in_tar(root: Path, split: str) -> bool:
    """Whether a split of ImageNet is to be read from its published tar."""
    return not (root / split).is_dir() and (root / _TARS[split]).is_file()


def _train(root: Path, classes: Sequence[str] | None = None) -> Split:
    """The training images, of all classes or of some that must be there."""
    need(root, "folder", LAYOUT)
    in_tar = lies_in_tar(root, "train")
    place = root / _TARS["train"] if in_tar else need(root / "train", "folder", LAYOUT)
    whole = tar_split([place], place) if in_tar else None
    missing = sorted(set(classes or ()) - set(whole.classes if whole else class_folders(place)))
    if missing:
        raise UserError(
            f"{place} lacks {len(missing)} classes of ImageNet-100, {', '.join(missing[:3])}...; "
            "it takes the same root as imagenet"
        )
    if whole is None:
        return class_tree(place, classes, strict=False) if classes else class_tree(place)
    return with_classes(whole, classes, place, strict=False) if classes else whole


def _validation(root: Path, classes: Sequence[str], strict: bool = True) -> Split:
    if lies_in_tar(root, "val"):
        val = root / _TARS["val"]
        found = tar_split([val], val)
        if found.classes:
            return with_classes(found, classes, val, strict)
    else:
        val = need(root / "val", "folder", LAYOUT)
        if class_folders(val):
            return class_tree(val, classes, strict)
        found = _flat(val)
    if (root / _KAGGLE_LABELS).is_file():
        table = root / _KAGGLE_LABELS
        with open(table, newline="") as file:
            wnids = {f"{row[0]}.JPEG": row[1].split()[0] for row in list(csv.reader(file))[1:] if len(row) > 1}
    elif (root / _SYNSET_LABELS).is_file():
        table = root / _SYNSET_LABELS
        wnids = _by_number(table.read_text().split())
    elif (table := root / _DEVKIT).is_dir():
        wnids = _by_number(_ground_truth(lambda name: need(table / name, "file", LAYOUT).read_bytes(), table))
    elif (table := root / f"{_DEVKIT}.tar.gz").is_file():
        wnids = _by_number(_ground_truth(lambda name: _member(table, f"{_DEVKIT}/{name}"), table))
    else:
        raise UserError(f"{val.absolute()} holds no class folders, and nothing says the images' classes; {LAYOUT}")
    return _labelled(found, val, wnids, classes, table, strict)


def _flat(folder: Path) -> Split:
    """All files that lie directly in a folder."""
    names = [name for name in os.listdir(folder) if not is_hidden(name)]
    read = FileReader(folder, names)
    return Split(names, np.full(len(names), -1), [], read, file_stamp([folder]), stats=read.stats)


def _by_number(wnids: Sequence[str]) -> dict[str, str]:
    return {f"ILSVRC2012_val_{i:08d}.JPEG": wnid for i, wnid in enumerate(wnids, start=1)}


def _ground_truth(read: Callable[[str], bytes], devkit: Path) -> list[str]:
    """The WordNet id of each validation image by the development kit: numbers of classes, and what they stand for.

    Args:
        read: gives a file of the kit.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            f"{devkit} keeps its classes in a MATLAB file, which takes scipy ({error}): pip install scipy, or put "
            f"{_SYNSET_LABELS} beside the images"
        ) from error
    try:
        synsets = loadmat(io.BytesIO(read("data/meta.mat")), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
        numbers = read("data/ILSVRC2012_validation_ground_truth.txt").split()
        return [wnids[int(number)] for number in numbers]
    except (KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise UserError(f"{devkit} is not the published development kit ({error!r}); download it again") from error


def _member(archive: Path, name: str) -> bytes:
    try:
        with tarfile.open(archive) as files:
            return files.extractfile(name).read()
    except (tarfile.TarError, zlib.error, OSError, EOFError, KeyError, AttributeError) as error:
        raise UserError(f"{archive} is damaged or not the public archive; download it again") from error


def with_classes(split: Split, classes: Sequence[str], where: Path, strict: bool = True) -> Split:
    """A split by the class numbers of another list of names, as ``class_tree`` does it.

    Args:
        where: the split's place, for sentences.
        strict: whether a class that is not in ``classes`` is an error rather than left out.

    Raises:
        UserError: there is such a class, or none of the others.
    """
    strangers = sorted(set(split.classes) - set(classes))
    if strangers and strict:
        raise UserError(f"{where}/{strangers[0]} is not one of the {len(classes)} classes of the training images")
    place = {name: label for label, name in enumerate(classes)}
    labels = np.array([place.get(name, -1) for name in split.classes])[split.labels]
    if not (labels >= 0).any():
        raise UserError(f"there is no image of the {len(classes)} classes in {where}")
    kept = np.flatnonzero(labels >= 0)
    kept = kept[np.argsort(labels[kept], kind="stable")]
    return replace(take(split, kept), labels=labels[kept], classes=list(classes))


def _labelled(
    found: Split, where: Path, wnids: Mapping[str, str], classes: Sequence[str], table: Path, strict: bool = True
) -> Split:
    """Images in no folders whose classes a table gives; names are sorted as in a tree, by class and then by file."""
    unlisted = sorted(name for name in found.names if name not in wnids)
    if unlisted:
        raise UserError(f"{where / unlisted[0]} and {len(unlisted) - 1} more are not listed in {table}")
    index = {wnid: label for label, wnid in enumerate(classes)}
    strangers = sorted(set(wnids.values()) - set(index))
    if strangers and strict:
        raise UserError(f"{table} names the class {strangers[0]}, which the training images do not have")
    listed = sorted((index[wnids[name]], name, i) for i, name in enumerate(found.names) if wnids[name] in index)
    if not listed:
        raise UserError(f"there is no image of the {len(classes)} classes in {where}")
    chosen = take(found, np.array([i for _, _, i in listed]))
    labels = np.array([label for label, _, _ in listed], np.int64)
    return replace(chosen, labels=labels, classes=list(classes), source=file_stamp([where, table]))


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
