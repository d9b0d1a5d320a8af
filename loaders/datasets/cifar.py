"""CIFAR-10 and CIFAR-100 from their public pickled ("python version") files."""

from __future__ import annotations

import codecs
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from loaders.datasets.split import Split, file_stamp, need
from loaders.errors import UserError

CIFAR10_LAYOUT = (
    "cifar10 expects ROOT/cifar-10-batches-py/ (data_batch_1 ... test_batch) or ROOT/cifar-10-python.tar.gz"
)
CIFAR100_LAYOUT = "cifar100 expects ROOT/cifar-100-python/ (train, test, meta) or ROOT/cifar-100-python.tar.gz"


def cifar10_splits(root: Path) -> dict[str, Split]:
    """CIFAR-10: 50,000 training and 10,000 held-out images of 32 x 32."""
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    members = [*batches, "test_batch", "batches.meta"]
    tables, stamp = _tables(root, "cifar-10-batches-py", "cifar-10-python.tar.gz", members, CIFAR10_LAYOUT)
    classes = list(tables["batches.meta"]["label_names"])
    return {
        "train": _split([tables[name] for name in batches], "labels", classes, "train", stamp),
        "val": _split([tables["test_batch"]], "labels", classes, "test", stamp),
    }


def cifar100_splits(root: Path) -> dict[str, Split]:
    """CIFAR-100 with its 100 fine labels."""
    members = ["train", "test", "meta"]
    tables, stamp = _tables(root, "cifar-100-python", "cifar-100-python.tar.gz", members, CIFAR100_LAYOUT)
    classes = list(tables["meta"]["fine_label_names"])
    return {
        "train": _split([tables["train"]], "fine_labels", classes, "train", stamp),
        "val": _split([tables["test"]], "fine_labels", classes, "test", stamp),
    }


def _split(tables: list[dict], label_key: str, classes: list[str], part: str, stamp: str) -> Split:
    pixels = np.concatenate([table["data"] for table in tables]).reshape(-1, 3, 32, 32)
    names = [f"{part}/{name}" for table in tables for name in table["filenames"]]
    labels = np.array([label for table in tables for label in table[label_key]], np.int64)

    def load(index: int) -> np.ndarray:
        return np.ascontiguousarray(pixels[index].transpose(1, 2, 0))

    return Split(names, labels, classes, load, f"{part} {stamp}", raw=True)


def _tables(root: Path, folder: str, archive: str, members: list[str], layout: str) -> tuple[dict[str, dict], str]:
    """The pickled tables by file name, from the folder or straight from the archive, and their stamp."""
    need(root, "folder", layout)
    place = root if (root / members[0]).is_file() else root / folder
    if not place.is_dir() and (root / archive).is_file():
        with _archive(root / archive) as files:
            tables = {name: _table(files.extractfile(f"{folder}/{name}").read(), name) for name in members}
        return tables, file_stamp([root / archive])
    need(place, "folder", layout)
    paths = [need(place / name, "file", layout) for name in members]
    return {path.name: _table(path.read_bytes(), path) for path in paths}, file_stamp(paths)


@contextmanager
def _archive(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as files:
            yield files
    except (tarfile.TarError, zlib.error, OSError, EOFError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged or not the public archive; download it again") from error


def _table(data: bytes, name: str | Path) -> dict:
    """One file's dictionary, checked to be of a known form."""
    try:
        table = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
        if "data" in table:
            count = len(table["filenames"])
            labels = table.get("fine_labels", table.get("labels"))
            if table["data"].shape != (count, 3072) or table["data"].dtype != np.uint8 or len(labels) != count:
                raise ValueError("its parts do not fit together")
        elif not {"label_names", "fine_label_names"} & set(table):
            raise ValueError("it holds neither images nor names of classes")
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{name} is not one of CIFAR's public files: {error}; download it again") from error
    return table


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers only: a pickle from elsewhere may otherwise run any code."""

    _ALLOWED = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.empty(0).__reduce__()[0],
        "encode": codecs.encode,  # how a newer Python writes bytes in the old protocol
    }

    def find_class(self, module: str, name: str):
        if module.split(".")[0] in ("numpy", "_codecs") and name in self._ALLOWED:
            return self._ALLOWED[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
