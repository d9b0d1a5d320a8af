"""STL-10 from its public binary files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loaders.datasets.split import Split, file_stamp, need
from loaders.errors import UserError

SIDE = 96
_IMAGE = 3 * SIDE * SIDE
LAYOUT = (
    "stl10 expects ROOT/stl10_binary/ (or ROOT itself) with train_X.bin, train_y.bin, test_X.bin, test_y.bin "
    "and unlabeled_X.bin"
)


def stl10_splits(root: Path) -> dict[str, Split]:
    """STL-10: ``train`` is the labelled and the unlabelled (label -1) images together, for pretraining."""
    need(root, "folder", LAYOUT)
    folder = root if (root / "train_X.bin").is_file() else need(root / "stl10_binary", "folder", LAYOUT)
    names = folder / "class_names.txt"
    classes = names.read_text().split() if names.is_file() else [str(label) for label in range(1, 11)]
    pixels = {part: _pixels(folder / f"{part}_X.bin") for part in ("train", "unlabeled", "test")}
    labels = {part: _labels(folder / f"{part}_y.bin", len(pixels[part])) for part in ("train", "test")}
    labels["unlabeled"] = np.full(len(pixels["unlabeled"]), -1, np.int64)
    stamp = file_stamp(sorted(folder.glob("*.bin")))

    def split(*parts: str) -> Split:
        names = [f"{part}/{i:06d}" for part in parts for i in range(len(pixels[part]))]
        loader = _Pixels([pixels[part] for part in parts])
        return Split(names, np.concatenate([labels[part] for part in parts]), classes, loader, stamp, raw=True)

    return {"train": split("train", "unlabeled"), "train_labelled": split("train"), "val": split("test")}


class _Pixels:
    """Image ``i`` of several memory-mapped arrays one after the other."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = arrays

    def __call__(self, index: int) -> np.ndarray:
        for array in self._arrays:
            if index < len(array):
                return np.ascontiguousarray(array[index].transpose(2, 1, 0))
            index -= len(array)
        raise IndexError(index)


def _pixels(path: Path) -> np.ndarray:
    """Memory-mapped images ``(n, 3, width, height)``: the file is column-major."""
    length = need(path, "file", LAYOUT).stat().st_size
    if not length or length % _IMAGE:
        raise UserError(f"{path} has {length} bytes, not a multiple of an image's {_IMAGE}; download it again")
    return np.memmap(path, np.uint8, "r").reshape(-1, 3, SIDE, SIDE)


def _labels(path: Path, count: int) -> np.ndarray:
    labels = np.fromfile(need(path, "file", LAYOUT), np.uint8).astype(np.int64) - 1  # the file counts from 1
    if len(labels) != count or labels.min() < 0 or labels.max() > 9:
        raise UserError(f"{path} does not hold a label from 1 to 10 for each of {count} images; download it again")
    return labels
