"""What lies at a path, told in one place: class folders, images without classes, tars, or parquet files.

A folder is read by the first of these that holds:

* It holds tars or parquet files: those, in the order of their names. Images or folders beside them are refused.
* An image lies directly in it: all images below it, without labels, whatever its folders are called.
* Else its folders are classes, whatever the depth of the images in them.

A file is known by its first bytes, not by its name. Several files are named by a pattern,
``shard-{000000..000146}.tar`` or ``shard-*.tar``.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from loaders.datasets.folder import class_folders, class_tree, cut, image_beside, is_hidden, unlabelled_tree
from loaders.datasets.imagenet import with_classes
from loaders.datasets.parquet import is_parquet, parquet_split
from loaders.datasets.split import Split
from loaders.datasets.tar_reading import compressed, compression, is_tar
from loaders.datasets.tars import tar_split
from loaders.errors import UserError

LAYOUT = (
    "tars, or parquet, expects a folder of such files, one of them, or a pattern such as 'name-{000..146}.tar'; "
    "held-out images are those of ROOT/val/, or of files with val in their names beside some with train"
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".parquet")
_HELD_OUT = ("validation", "valid", "val", "test")
_WORD = re.compile(r"(?:^|[-_.])(train|validation|valid|val|test)(?=[-_.0-9])")  # in a file's name
_MOST_FILES = 1_000_000


def open_place(path: Path) -> Split | None:
    """Lists the images at a path, or at those that a pattern names; None where nothing is there that can be read.

    Raises:
        UserError: what is there cannot be read as a dataset.
    """
    if path.is_dir():
        files = archives(path)
        if files:
            return open_files(files, path)
        return class_tree(path) if image_beside(path) is None else unlabelled_tree(path)
    if path.exists():
        return open_files([path], path)
    files = named_files(path)
    return open_files(files, path) if files else None


def archive_splits(root: Path, val_share: float) -> dict[str, Split]:
    """Training and held-out images from tars or parquet files: by folders ``train/`` and ``val/`` (or ``validation/``
    or ``test/``), else by these words in the files' names, else one dataset cut in two.

    Images without labels are not cut: they are all for training.

    Args:
        root: the folder, or its folder ``data/`` where that has the files, as Hugging Face's datasets; a file or a
            pattern of files.

    Raises:
        UserError: there is nothing there, or held-out images of other classes.
    """
    parts: dict[str, list[Path]] = {}
    for folder in (root, root / "data"):
        if (folder / "train").is_dir():
            named = {word: folder / word for word in ("train", *_HELD_OUT) if (folder / word).is_dir()}
            parts = parts or {word: archives(place) for word, place in named.items()}
        elif folder.is_dir():
            for file in [] if parts else _files_of(folder):
                parts.setdefault(_part(file), []).append(file)
    held_out = next((word for word in _HELD_OUT if parts.get(word)), None)
    if held_out is not None and parts.get("train"):
        if "" in parts:
            raise UserError(f"{parts[''][0]} lies beside files named train and {held_out}: its part cannot be told")
        train, val = _need_files(parts["train"], root), _need_files(parts[held_out], root)
        alike = not val.classes or val.classes == train.classes
        return {"train": train, "val": val if alike else with_classes(val, train.classes, root)}
    files = sorted(file for part in parts.values() for file in part)
    split = open_files(files, root) if files else None if root.is_dir() else open_place(root)
    if split is None:
        raise UserError(f"there is none at {root.absolute()}; {LAYOUT} (--root or data.root names the place)")
    return {"train": split} if (split.labels < 0).all() else cut(split, val_share)


def _files_of(folder: Path) -> list[Path]:
    # By strings: a flat folder may hold a million images.
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(_ARCHIVES) and not is_hidden(name))
    return [folder / name for name in names if not (folder / name).is_dir()]


def _need_files(files: list[Path], root: Path) -> Split:
    split = open_files(files, root)
    if split is None:
        raise UserError(f"{files[0]} is neither a tar nor a parquet file")
    return split


def _part(file: Path) -> str:
    found = _WORD.search(file.name.lower())
    return found[1] if found else ""


def is_place(path: Path) -> bool:
    """Whether something is at a path, or at those that a pattern names."""
    return path.exists() or bool(named_files(path))


def archives(folder: Path) -> list[Path]:
    """The tars or parquet files in a folder, by name; none where there are none.

    Raises:
        UserError: images or folders lie beside them, or some are tars and some parquet files.
    """
    found = _files_of(folder)
    beside = next(iter(class_folders(folder)), None) or image_beside(folder) if found else None
    if beside is not None:
        raise UserError(
            f"{folder} holds {found[0].name} and {beside} beside it, so what it is cannot be told: give the one "
            "or the other"
        )
    return found


def open_files(files: list[Path], where: Path) -> Split | None:
    """The images of some tars or of some parquet files; None where the first is neither.

    Args:
        where: what they were asked for by, for sentences.
    """
    if is_tar(files[0]):
        return tar_split(files, where)
    if is_parquet(files[0]):
        return parquet_split(files, where)
    _refuse_compressed(files[0])
    return None


def named_files(pattern: Path) -> list[Path]:
    """The files that a pattern names, by name; none where it is no pattern, or no file fits.

    Raises:
        UserError: files of a range are missing, as shards that were not fetched are.
    """
    words = list(_expanded(str(pattern)))
    if len(words) == 1:
        return sorted(map(Path, glob.glob(words[0]))) if glob.has_magic(words[0]) else []
    files = [Path(word) for word in words]
    missing = [file for file in files if not file.is_file()]
    if missing and len(missing) < len(files):
        raise UserError(
            f"{pattern} names {len(files):,} files, and {len(missing):,} do not exist, such as {missing[0]}: fetch them"
        )
    return [] if missing else files


def _expanded(text: str) -> Iterator[str]:
    """``a{1..3}`` and ``a{x,y}`` written out, as a shell does."""
    found = _RANGE.search(text) or _BRACES.search(text)
    if found is None:
        yield text
        return
    if found.re is _RANGE:
        first, last = int(found[1]), int(found[2])
        if not first <= last < first + _MOST_FILES:
            raise UserError(f"{text} names no range of files: write {{first..last}}, at most {_MOST_FILES:,} of them")
        words = [f"{number:0{len(found[1])}}" for number in range(first, last + 1)]
    else:
        words = found[1].split(",")
    for word in words:
        yield from _expanded(text[: found.start()] + word + text[found.end() :])


def _refuse_compressed(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            kind = compression(file.read(8))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if kind is not None:
        raise compressed(path, kind)
