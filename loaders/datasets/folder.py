"""Image files in folders named after their classes, or in any folders without classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from loaders.datasets.split import Split, file_stamp, need
from loaders.errors import UserError
from loaders.progress import Progress

_THREADS = 16  # that ask for the sizes of files: they wait for the disk, or for a server's
_TASK = 512  # files a thread takes at once
_MANY = 100_000  # files whose sizes take seconds
LAYOUT = (
    "folder expects one folder a class with the images inside, ROOT/class/.../image, "
    "or two such trees, ROOT/train and ROOT/val (or ROOT/test); images without classes are the dataset unlabelled"
)

UNLABELLED_LAYOUT = (
    "unlabelled expects any tree of images, ROOT/.../image, whose names end as an image's do (.jpg, .png, .webp, ...)"
)

# Files that count as images where no class folder says that they are.
_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
_LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx")


def folder_splits(root: Path, val_share: float) -> dict[str, Split]:
    """Any tree ``class/…/image``: two trees where there are ``train/`` and ``val/`` (or ``test/``), else one cut in
    two.

    Raises:
        UserError: the root is missing, holds no class folder or no file, or the two trees' classes disagree.
    """
    need(root, "folder", LAYOUT)
    held_out = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if held_out is not None and (root / "train").is_dir():
        train = _alone(root / "train")
        return {"train": train, "val": class_tree(held_out, train.classes)}
    if class_folders(root) == ["train"]:
        raise UserError(
            f"{root} holds train/ but neither val/ nor test/; add one, or give --root {root / 'train'} to cut it in two"
        )
    return cut(_alone(root), val_share)


def _alone(root: Path) -> Split:
    """The class tree of ``root``, unless an image beside the folders says that they are no classes."""
    beside = image_beside(root) if class_folders(root) else None
    if beside is not None:
        raise UserError(
            f"{root} holds the image {beside} beside its folders, which therefore are not taken for classes: move it, "
            "or take all of them without labels, as the dataset unlabelled"
        )
    return class_tree(root)


def class_tree(root: Path, classes: Sequence[str] | None = None, strict: bool = True) -> Split:
    """The tree ``root/class/…/image``; the label is the class's position in the sorted list of class folders.

    Every file that is not hidden counts as an image here; the converter looks inside.

    Args:
        root: the folder that holds the class folders.
        classes: class names by index instead of the sorted list of folders.
        strict: whether a folder that is not in ``classes`` is an error rather than left out.

    Raises:
        UserError: no class folder, no file in any of them, or one that is not in ``classes``.
    """
    found = class_folders(root)
    if not found:
        raise UserError(f"{root} holds no class folders; {LAYOUT}")
    classes = list(classes) if classes is not None else found
    strangers = sorted(set(found) - set(classes))
    if strangers and strict:
        raise UserError(f"{root / strangers[0]} is not one of the {len(classes)} classes of the training images")
    present = sorted(set(found) & set(classes))
    names, labels = [], []
    for name in present:
        files = sorted(_files(root / name, name), key=lambda file: file.split("/"))
        names += files
        labels += [classes.index(name)] * len(files)
    if not names:
        raise UserError(f"there is no file in any of the {len(classes)} class folders of {root}; {LAYOUT}")
    stamp = file_stamp([root / name for name in present])
    read = FileReader(root, names)
    return Split(names, np.array(labels, np.int64), classes, read, stamp, stats=read.stats)


def unlabelled_tree(root: Path) -> Split:
    """All images below ``root``, without labels, in the order of their names; linked folders are not entered.

    Files that are hidden, or whose names do not end as an image's do, are left out.

    Raises:
        UserError: the root is missing, or holds no image.
    """
    need(root, "folder", UNLABELLED_LAYOUT)
    found = (name.removeprefix("./") for name in _files(root, "."))
    names = sorted(filter(is_image_name, found), key=lambda name: name.split("/"))
    if not names:
        raise UserError(f"{root} holds no image; {UNLABELLED_LAYOUT}")
    read = FileReader(root, names)
    folders = sorted({os.path.dirname(name) for name in names})
    stamp = "unlabelled " + file_stamp([root / folder for folder in folders])
    return Split(names, np.full(len(names), -1), [], read, stamp, stats=read.stats)


def image_beside(folder: Path) -> str | None:
    """The first image that lies in ``folder`` itself, in no folder below it; None where all are in folders."""
    images = (entry.name for entry in _entries(folder) if is_image_name(entry.name) and not _is_folder(entry))
    return min(images, default=None)


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(_ENDINGS)


def class_folders(root: Path) -> list[str]:
    """Names of the folders in ``root``, sorted, hidden ones left out.

    Raises:
        UserError: it cannot be listed.
    """
    return sorted(entry.name for entry in _entries(root) if _is_folder(entry))


def cut(split: Split, val_share: float) -> dict[str, Split]:
    """Cuts a split in two by a hash of each file's name, so that adding images moves none of the others.

    Both parts get at least one image (the one nearest to the border) and keep the list of classes. A share of 0 holds
    nothing out: there is the training part alone.

    Raises:
        UserError: the share is not from 0 to below 1, or one image is to be cut in two.
    """
    if not 0 <= val_share < 1:
        raise UserError(f"--val-share {val_share} is not between 0 and 1")
    if val_share == 0:
        return {"train": split}
    if len(split) < 2:
        raise UserError("one image cannot be cut into training and held-out images")
    draws = np.array([_hash(name) for name in split.names])
    held_out = draws < val_share
    held_out[draws.argmin()], held_out[draws.argmax()] = True, False
    return {"train": take(split, np.flatnonzero(~held_out)), "val": take(split, np.flatnonzero(held_out))}


def take(split: Split, indices: np.ndarray) -> Split:
    """The images ``indices`` of a split."""
    names = [split.names[i] for i in indices]
    kept = {"names": names, "labels": split.labels[indices], "load": lambda i: split.load(int(indices[i]))}
    kept |= {"stats": split.stats and (lambda: split.stats()[indices])}
    return replace(split, **kept, sizes=split.sizes and (lambda: split.sizes()[indices]))


class FileReader:
    """Reads the image files ``names`` below ``root``."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __call__(self, index: int) -> bytes:
        path = self.root / self.names[index]
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if path.is_symlink():
                raise OSError("a link to a file that does not exist") from None
            raise

    def stats(self) -> np.ndarray:
        """Bytes and time of the last change (ns) of every file, int64 (n, 2); -1 of one that is not there. Of many
        files it tells how far it is."""
        count = len(self.names)
        stats, starts = np.empty((count, 2), np.int64), range(0, count, _TASK)
        shown = Progress("sizes of the files", "images", count) if count >= _MANY else nullcontext()
        with shown as progress, ThreadPoolExecutor(_THREADS, thread_name_prefix="stats") as pool:
            for start, found in zip(starts, pool.map(self._stats_from, starts), strict=True):
                stats[start : start + len(found)] = found
                if progress:
                    progress.advance(len(found))
        return stats

    def _stats_from(self, start: int) -> list[tuple[int, int]]:
        return [_stat(os.path.join(self.root, name)) for name in self.names[start : start + _TASK]]


def _stat(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _files(folder: Path, prefix: str) -> Iterator[str]:
    """Files below ``folder``, as names that start with ``prefix``; linked folders are not entered."""
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), f"{prefix}/{entry.name}")
        elif not _is_folder(entry):
            yield f"{prefix}/{entry.name}"


def _entries(folder: Path) -> list[os.DirEntry]:
    """What is in a folder and not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror or error}") from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the dataset: hidden, or left there by Windows or macOS."""
    return name.startswith(".") or name.lower() in _LITTER


def _hash(name: str) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
