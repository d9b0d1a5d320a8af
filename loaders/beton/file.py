"""FFCV's ``.beton`` format, read with NumPy alone; ``writer.py`` writes it.

A file is, in this order: a header, a descriptor of each field, a row of metadata for each image, the images' bytes
(each within one page, so that FFCV can also read page by page), a block of names that FFCV does not look at, and the
allocation table (address and size of every image), which runs to the end of the file.

The block of names is found through the image field's 1024 argument bytes, which FFCV leaves unused for images. The
layout follows FFCV 1.0.2 (``ffcv/types.py``, ``ffcv/writer.py``; Leclerc et al., arXiv 2306.12517).
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from loaders.errors import UserError
from loaders.image_reading import LARGEST_PIXELS

VERSION = 2
JPEG, RAW = 0, 1
LARGEST_SIDE = 65535  # FFCV keeps widths and heights in 16 bits

HEADER = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page_size", "<u4"), ("images", "<u8"), ("table", "<u8")])
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
ALLOCATION = np.dtype([("image", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
EXTRA = np.dtype([("magic", "S8"), ("pointer", "<u8"), ("size", "<u8"), ("source", "S64")])
EXTRA_MAGIC = b"fastintl"
IMAGE_TYPE, INT_TYPE = 2, 1
# Metadata of FFCV's field types by number: float, int, image, bytes, array, JSON, tensor.
_BLOB = np.dtype([("pointer", "<u8"), ("size", "<u8")])
_METADATA = (np.dtype("<f8"), np.dtype("<i8"), IMAGE, _BLOB, np.dtype("<u8"), _BLOB, np.dtype("<u8"))
ROW = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)


class BetonFile:
    """A ``.beton`` file with an ``image`` and a ``label`` field, memory-mapped.

    Attributes:
        path: the file.
        heights, widths: image sizes in pixels, int32 ``(n,)``.
        labels: class indices, int64 ``(n,)``; -1 for an unlabelled image.
        modes: how an image is stored, uint8 ``(n,)``: 0 is a JPEG stream, 1 is raw RGB pixels.
        pointers, sizes: where the stored bytes lie and how many they are, int64 ``(n,)``.
        source: fingerprint of the images and options the file was written from, "" if unknown.

    Raises:
        UserError: the file is missing, not a ``.beton`` file, truncated, or lacks one of the two fields.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._bytes = _map(self.path)
        header = self._read_header()
        fields = self._at(HEADER.itemsize, FIELD, int(header["fields"]))
        rows = self._read_rows(fields, int(header["images"]))
        image = rows["image"]
        self.heights = image["height"].astype(np.int32)
        self.widths = image["width"].astype(np.int32)
        self.modes = image["mode"].copy()
        self.pointers = image["pointer"].astype(np.int64)
        self.labels = rows["label"].astype(np.int64)
        self.sizes = self._read_sizes(int(header["table"]))
        self._check_images(int(header["table"]))
        arguments = fields["arguments"][rows.dtype.names.index("image")]
        self._extra = np.frombuffer(arguments.tobytes(), EXTRA, count=1)[0]
        ours = self._extra["magic"] == EXTRA_MAGIC
        self.source: str = self._read_source() if ours else ""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> np.ndarray:
        """The stored bytes of an image, read-only uint8: a JPEG stream, or ``height * width * 3`` pixels."""
        start = self.pointers[index]
        return self._bytes[start : start + self.sizes[index]]

    @property
    def names(self) -> Sequence[str]:
        """The images' file names relative to the dataset's root; empty strings if unknown."""
        return self._texts[1]

    @property
    def classes(self) -> list[str]:
        """Class names by label; empty if unknown."""
        return self._texts[0]

    @cached_property
    def _texts(self) -> tuple[list[str], list[str]]:
        if self._extra["magic"] != EXTRA_MAGIC:
            return [], [""] * len(self)
        start, size = int(self._extra["pointer"]), int(self._extra["size"])
        try:
            texts = json.loads(zlib.decompress(self._bytes[start : start + size].tobytes()))
            classes, names = texts["classes"], texts["names"]
            of_strings = all(isinstance(text, str) for texts in (classes, names) for text in texts)
            if not of_strings or len(names) != len(self):
                raise ValueError("they are not those of its images")
        except (zlib.error, ValueError, TypeError, LookupError, RecursionError) as error:
            raise UserError(f"{self.path} is damaged: its block of names cannot be read; write it again") from error
        return classes, names

    def _read_source(self) -> str:
        try:
            return self._extra["source"].decode("ascii")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path} is damaged: its header does not say what it was written from; write it again"
            ) from error

    def _read_header(self) -> np.void:
        if len(self._bytes) < HEADER.itemsize:
            raise UserError(f"{self.path} is not a .beton file: it has {len(self._bytes)} bytes")
        header = self._at(0, HEADER, 1)[0]
        page_size, fields = int(header["page_size"]), int(header["fields"])
        if header["version"] != VERSION or page_size & (page_size - 1) or not page_size or not 0 < fields < 256:
            raise UserError(
                f"{self.path} is not a .beton file of FFCV's version {VERSION} (its version field says "
                f"{header['version']}); write one with tools/write_ffcv.py"
            )
        if header["images"] == 0:
            raise UserError(f"{self.path} holds no images")
        return header

    def _read_rows(self, fields: np.ndarray, count: int) -> np.ndarray:
        names = [_text(bytes(name).split(b"\0")[0]) for name in fields["name"]]
        types = dict(zip(names, fields["type"].tolist(), strict=True))
        if types.get("image") != IMAGE_TYPE or types.get("label") != INT_TYPE:
            raise UserError(
                f"{self.path} has the fields {', '.join(names)}; an image field named image (RGBImageField) "
                "and a whole-number field named label (IntField) are needed"
            )
        unknown = [name for name in names if types[name] >= len(_METADATA)]
        if unknown or len(types) < len(names):
            raise UserError(f"{self.path} has fields of unknown type or repeated name: {', '.join(unknown or names)}")
        row = np.dtype([(name, _METADATA[types[name]]) for name in names], align=True)
        return self._at(HEADER.itemsize + fields.nbytes, row, count)

    def _read_sizes(self, table_at: int) -> np.ndarray:
        """Looks every image up in the allocation table, int64 ``(n,)``."""
        length = len(self._bytes) - table_at
        if length <= 0 or length % ALLOCATION.itemsize:
            raise self._truncated()
        table = self._at(table_at, ALLOCATION, length // ALLOCATION.itemsize)
        pointers = table["pointer"].astype(np.int64)
        if np.array_equal(pointers, self.pointers):  # a row an image in their order, as writers leave it
            return table["size"].astype(np.int64)
        order = np.argsort(pointers, kind="stable")
        place = np.searchsorted(pointers, self.pointers, sorter=order)
        entry = order[np.minimum(place, len(order) - 1)]
        if not np.array_equal(pointers[entry], self.pointers):
            raise self._truncated()
        return table["size"][entry].astype(np.int64)

    def _check_images(self, table_at: int) -> None:
        raw_size = self.heights.astype(np.int64) * self.widths * 3
        wrong = (self.pointers < 0) | (self.sizes < 0) | (self.sizes > table_at - self.pointers)
        wrong |= (raw_size < 3) | (raw_size > 3 * LARGEST_PIXELS)
        wrong |= (self.modes > RAW) | (self.modes == RAW) & (self.sizes != raw_size)
        if wrong.any():
            raise UserError(f"{self.path} is damaged: the index of image {wrong.argmax()} is wrong; write it again")

    def _at(self, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        if offset + count * dtype.itemsize > len(self._bytes):
            raise self._truncated()
        return np.frombuffer(self._bytes.data, dtype, count, offset)

    def _truncated(self) -> UserError:
        return UserError(
            f"{self.path} is truncated: the index of its images is not in its {len(self._bytes)} bytes; "
            "copy or write it again"
        )


def _text(name: bytes) -> str:
    """A field's name; what is not ASCII or cannot be printed is written as in a program."""
    return name.decode("latin-1").encode("unicode_escape").decode("ascii")


def _map(path: Path) -> np.ndarray:
    """The whole file as read-only uint8 ``(size,)``, memory-mapped."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path} is empty, not a .beton file")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; write it with tools/write_ffcv.py") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
