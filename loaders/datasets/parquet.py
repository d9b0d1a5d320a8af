"""Images in parquet files, in the layout of Hugging Face's datasets, through pyarrow.

A column of structs ``{bytes, path}`` holds the image files; a whole-number column their labels, and the schema's
metadata the names of the classes. Images keep the order of the rows: a file can only be read a group of rows at a time,
so reading them in another order, as a shuffled training does, reads each group again and again. What fits 256 MiB is
read once; convert what is larger.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loaders.datasets.split import MOST_LABELS, Split, file_stamp
from loaders.errors import UserError

LAYOUT = (
    "parquet files hold a column of structs {bytes, path} and a whole-number column named label, as those of "
    "Hugging Face's datasets"
)
_LABELS = ("label", "labels", "fine_label")
_KEPT = 256 << 20  # bytes of images in memory


def is_parquet(path: Path) -> bool:
    """Whether a file begins as a parquet file does."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def parquet_split(files: Sequence[Path], where: Path) -> Split:
    """The images of some parquet files, one file's rows after the other's.

    Args:
        where: what they were asked for by, for sentences.

    Raises:
        UserError: pyarrow is not installed, or a file is damaged or of another layout.
    """
    rows = _Rows(files)
    image, label, classes = rows.guarded(files[0], _columns, rows.schema, files[0])
    paths: list[str | None] = []
    labels: list[int | None] = []
    for table in rows.tables([f"{image}.path", *([label] if label else [])]):
        paths += _texts(table[image].combine_chunks().field("path"))
        labels += table[label].to_pylist() if label else [-1] * len(table)
    if not paths:
        raise UserError(f"{where} holds no rows; {LAYOUT}")
    numbers = np.array([-1 if value is None else value for value in labels], np.int64)
    wrong = numbers[(numbers < -1) | (numbers >= (len(classes) if classes else MOST_LABELS))]
    if len(wrong):
        what = f"none of its {len(classes)} classes" if classes else "no class indices"
        raise UserError(f"{where} has labels that are {what}, such as {wrong[0]}: mend its column {label}")
    if any(path is None for path in paths) or len(set(paths)) < len(paths):
        counted = zip(files, rows.counts, strict=True)
        paths = [f"{file.stem}/{row:08d}" for file, count in counted for row in range(count)]
    read = _Reader(rows, image)
    return Split(paths, numbers, classes, read, f"parquet {file_stamp(files)}", sizes=read.sizes)


def _texts(column: Any) -> list[str | None]:
    """Strings, of whatever bytes, as names of files are read."""
    import pyarrow

    found = column.cast(pyarrow.large_binary()).to_pylist()
    return [None if text is None else text.decode("utf-8", "surrogateescape") for text in found]


class _Rows:
    """The rows of some parquet files, in groups."""

    def __init__(self, files: Sequence[Path]) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError(f"parquet files need pyarrow ({error}): pip install 'fastintl[parquet]'") from error
        self._files, self._error = files, pyarrow.ArrowException
        self._open = [self.guarded(file, pyarrow.parquet.ParquetFile, file) for file in files]
        self.schema = self._open[0].schema_arrow
        for file, opened in zip(files, self._open, strict=True):
            if not opened.schema_arrow.equals(self.schema):
                raise UserError(f"{file} and {files[0]} do not have the same columns")
        self.counts = [opened.metadata.num_rows for opened in self._open]
        self._groups = [(i, group) for i, opened in enumerate(self._open) for group in range(opened.num_row_groups)]
        self._ends = np.cumsum([self._open[i].metadata.row_group(group).num_rows for i, group in self._groups])
        self._lock = threading.Lock()

    def tables(self, columns: list[str]):
        """Some columns of each group of rows in turn."""
        return (self.group(number, columns) for number in range(len(self._groups)))

    def group(self, number: int, columns: list[str]):
        """Some columns of a group of rows.

        Raises:
            UserError: it cannot be read, or has not the rows that the file's end tells of it: pyarrow believes a
                damaged page.
        """
        i, group = self._groups[number]
        with self._lock:
            table = self.guarded(self._files[i], self._open[i].read_row_group, group, columns=columns)
            rows = self._open[i].metadata.row_group(group).num_rows
        if table.num_rows != rows:
            raise UserError(
                f"{self._files[i]} is damaged: its group {group} of rows has {table.num_rows:,} where the file's end "
                f"tells of {rows:,}: copy it again"
            )
        return table

    def place(self, index: int) -> tuple[int, int]:
        """The group of a row, and its place there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)

    def guarded(self, file: Path, call, *args, **options) -> Any:
        """Calls pyarrow, which looks at the bytes of names only when they are asked for; its errors are sentences."""
        try:
            return call(*args, **options)
        except (self._error, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from error


class _Reader:
    """Reads images, and keeps those of the groups that were read last."""

    def __init__(self, rows: _Rows, image: str) -> None:
        self._rows, self._image = rows, image
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def __call__(self, index: int) -> bytes:
        number, row = self._rows.place(index)
        with self._lock:  # threads that want the same group wait for the first
            if number not in self._kept:
                self._kept[number] = self._encoded(number)
                self._bytes += self._kept[number].nbytes
                while self._bytes > _KEPT and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept.move_to_end(number)
            data = self._kept[number][row].as_py()
        if data is None:
            raise OSError("its row has no bytes")
        return data

    def sizes(self) -> np.ndarray:
        """Bytes of every image, int64 (n,): reads all of them."""
        import pyarrow.compute

        groups = range(len(self._rows._groups))
        lengths = (pyarrow.compute.binary_length(self._encoded(number)).fill_null(-1) for number in groups)
        return np.concatenate([length.to_numpy(zero_copy_only=False) for length in lengths]).astype(np.int64)

    def _encoded(self, number: int) -> Any:
        table = self._rows.group(number, [f"{self._image}.bytes"])
        return table[self._image].combine_chunks().field("bytes")


def _columns(schema: Any, file: Path) -> tuple[str, str | None, list[str]]:
    """The columns of images and of labels, and the names of the classes."""
    import pyarrow

    structs = [column.name for column in schema if pyarrow.types.is_struct(column.type)]
    images = [name for name in structs if _is_image(schema.field(name).type)]
    if len(images) != 1:
        found = ", ".join(f"{column.name} ({column.type})" for column in schema)
        raise UserError(f"{file} holds {len(images)} columns of images among {found}; {LAYOUT}")
    features = _features(schema)
    names = {name: about["names"] for name, about in features.items() if _is_class_label(about)}
    whole = [column.name for column in schema if pyarrow.types.is_integer(column.type)]
    label = next((name for name in _LABELS if name in whole), None)
    if label is None and len(set(names) & set(whole)) == 1:
        (label,) = set(names) & set(whole)
    return images[0], label, names.get(label, [])


def _is_image(struct: Any) -> bool:
    parts = {part.name: part.type for part in struct}
    data, path = (str(parts.get(name)) for name in ("bytes", "path"))
    return data in ("binary", "large_binary") and path in ("string", "large_string")


def _is_class_label(about: Any) -> bool:
    return isinstance(about, dict) and about.get("_type") == "ClassLabel" and _are_texts(about.get("names"))


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _features(schema: Any) -> dict[str, Any]:
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
