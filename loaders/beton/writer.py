"""Writes FFCV's ``.beton`` format with NumPy alone; the layout is explained in ``file.py``."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence

import numpy as np

from loaders.beton.file import ALLOCATION, EXTRA, EXTRA_MAGIC, FIELD, HEADER, IMAGE, IMAGE_TYPE, INT_TYPE, ROW, VERSION

PAGE_SIZE = 1 << 23
SKIPPED = 255  # in place of a mode: the image was left out
RECORD = np.dtype(
    [("pointer", "<u8"), ("size", "<u8"), ("width", "<u2"), ("height", "<u2"), ("mode", "u1"), ("pad", "V3")]
)


class BetonWriter:
    """Lays images out in a ``.beton`` file, in the order they are added.

    The bytes of the file are a function of what was added and nothing else. Room for the metadata of ``capacity``
    images is kept at the front, so images can be skipped on the way. The header is the last thing written.

    Args:
        descriptor: an open, writable file descriptor; it stays the caller's.
        capacity: the most images that will be added.

    Attributes:
        rows: what is known of each image so far, ``RECORD`` ``(count,)``; a left out one has the mode ``SKIPPED``.
        end: file position after the last image.
    """

    def __init__(self, descriptor: int, capacity: int) -> None:
        self._descriptor = descriptor
        self._rows = np.zeros(capacity, RECORD)
        self.capacity = capacity
        self.count = 0
        self._page_size = PAGE_SIZE
        self.end = _round_up(HEADER.itemsize + 2 * FIELD.itemsize + capacity * ROW.itemsize, PAGE_SIZE)

    @property
    def rows(self) -> np.ndarray:
        return self._rows[: self.count]

    def restore(self, rows: np.ndarray) -> None:
        """Continues after an earlier writer's ``rows``, whose bytes are in the file already."""
        self.count = len(rows)
        self._rows[: self.count] = rows
        kept = rows[rows["mode"] != SKIPPED]
        if len(kept):
            self._page_size = max(PAGE_SIZE, _page_for(int(kept["size"].max())))
            self.end = int((kept["pointer"] + kept["size"]).max())

    def add(self, data: bytes | memoryview | np.ndarray, height: int, width: int, mode: int) -> None:
        """Writes one image's stored bytes.

        Raises:
            OSError: the file cannot be written; nothing is counted as added.
        """
        view = memoryview(data).cast("B")
        # Pages are counted from the start of the file and sizes are powers of two, so a page that grows for one big
        # image leaves every earlier image within one page.
        page_size = max(self._page_size, _page_for(len(view)))
        start = self.end
        if start // page_size != (start + len(view) - 1) // page_size:
            start = _round_up(start, page_size)
        write_at(self._descriptor, view, start)
        self._page_size, self.end = page_size, start + len(view)
        self._rows[self.count] = (start, len(view), width, height, mode, b"")
        self.count += 1

    def skip(self) -> None:
        """Counts an image that is left out of the file."""
        self._rows[self.count]["mode"] = SKIPPED
        self.count += 1

    def finish(self, labels: np.ndarray, names: Sequence[str], classes: Sequence[str], source: str = "") -> None:
        """Writes everything but the images.

        Args:
            labels: class index of every image added or skipped, int64 ``(count,)``.
            names: file name of every image added or skipped.
            classes: class names by label.
            source: fingerprint of what the file was written from, at most 64 ASCII characters.
        """
        kept = np.flatnonzero(self.rows["mode"] != SKIPPED)
        rows = self.rows[kept]
        texts = json.dumps({"classes": list(classes), "names": [names[i] for i in kept]}).encode()
        block = zlib.compress(texts, 6)
        table = np.zeros(len(kept), ALLOCATION)
        table["image"], table["pointer"], table["size"] = (np.arange(len(kept)), rows["pointer"], rows["size"])
        metadata = np.zeros(len(kept), ROW)
        for key in IMAGE.names:
            metadata["image"][key] = rows[key]
        metadata["label"] = labels[kept]
        fields = np.zeros(2, FIELD)
        fields["type"], fields["name"] = (IMAGE_TYPE, INT_TYPE), (b"image", b"label")
        extra = np.array((EXTRA_MAGIC, self.end, len(block), source.encode("ascii")), EXTRA)
        fields["arguments"][0] = extra.tobytes().ljust(FIELD["arguments"].itemsize, b"\0")
        header = np.array((VERSION, 2, self._page_size, len(kept), self.end + len(block)), HEADER)

        os.ftruncate(self._descriptor, self.end)
        write_at(self._descriptor, block + table.tobytes(), self.end)
        write_at(self._descriptor, fields.tobytes() + metadata.tobytes(), HEADER.itemsize)
        write_at(self._descriptor, header.tobytes(), 0)


def write_at(descriptor: int, data: bytes | memoryview, position: int) -> None:
    """Writes all of ``data`` at ``position``; a nearly full disk takes less than asked without an error."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def _page_for(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def _round_up(position: int, page_size: int) -> int:
    return -(-position // page_size) * page_size
