"""The unfinished file of a conversion and the journal beside it, by which a killed conversion goes on.

``X.beton.partial`` holds the images stored so far, ``X.beton.journal`` a key (a fingerprint of images, options and
encoder) and one fixed-size record for each image, ``X.quarantine.txt`` one line for each image left out. A record is
written only after what it speaks of has reached the disk, so every whole record can be trusted. ``X.beton.lock`` keeps
a second conversion away.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from loaders.beton.writer import RECORD, SKIPPED, BetonWriter, write_at
from loaders.errors import UserError
from loaders.files import publish
from loaders.lock import Held, Lock

_KEY_SIZE = 64


class ConversionJournal:
    """The files of one conversion while it is under way.

    Args:
        target: the ``.beton`` file to be written.
        key: fingerprint, 64 ASCII characters, of everything the stored bytes depend on.
        count: images in the dataset.

    Attributes:
        writer: where images go; it already holds those of an earlier, killed conversion with the same key.
        other_key: the files found were those of another conversion, and this one starts over.

    Raises:
        UserError: another process is writing the same file.
        OSError: the files cannot be made.
    """

    def __init__(self, target: Path, key: str, count: int) -> None:
        self.target = target
        self.partial = _beside(target, ".partial")
        self.quarantine = quarantine_path(target)
        try:
            self._lock = Lock(_beside(target, ".lock"))
        except Held as holder:
            raise UserError(f"another process is writing {target} ({holder}); wait for it or stop it") from None
        self._partial = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        self._journal = os.open(_beside(target, ".journal"), os.O_RDWR | os.O_CREAT, 0o666)
        self._list = os.open(self.quarantine, os.O_RDWR | os.O_CREAT, 0o666)
        self.writer = BetonWriter(self._partial, count)
        self._reasons: list[str] = []
        self._resume(key)

    def quarantine_image(self, name: str, reason: str) -> None:
        """Leaves the next image out, and lists it with the reason."""
        self._reasons.append(f"{name}\t{reason}".replace("\n", " ") + "\n")
        self.writer.skip()

    def commit(self) -> None:
        """Makes everything up to now outlast a kill or a power failure."""
        lines = "".join(self._reasons).encode("utf-8", "surrogateescape")
        os.fsync(self._partial)
        if lines:
            write_at(self._list, lines, self._list_end)
            os.fsync(self._list)
        records = self.writer.rows[self._committed :].tobytes()
        write_at(self._journal, records, _KEY_SIZE + self._committed * RECORD.itemsize)
        os.fsync(self._journal)
        self._committed = self.writer.count
        self._list_end += len(lines)
        self._reasons.clear()

    def publish(self) -> None:
        """Gives the finished file its name, in one step, and removes the journal."""
        publish(self.partial, self.target)
        remove_leftovers(self.target)

    def abandon(self) -> None:
        """Removes the unfinished file, of which nothing is worth keeping; the quarantine list stays."""
        self.partial.unlink()
        remove_leftovers(self.target)

    def close(self) -> None:
        for descriptor in (self._partial, self._journal, self._list):
            os.close(descriptor)
        self._lock.close()

    def _resume(self, key: str) -> None:
        header = os.pread(self._journal, _KEY_SIZE, 0)
        self.other_key = header not in (b"", key.encode())
        rows = self._trusted_rows() if header == key.encode() else np.zeros(0, RECORD)
        self.writer.restore(rows)
        self._committed = len(rows)
        self._list_end = self._end_of_line(int((rows["mode"] == SKIPPED).sum()))
        os.ftruncate(self._list, self._list_end)
        os.ftruncate(self._partial, self.writer.end if len(rows) else 0)
        os.ftruncate(self._journal, _KEY_SIZE + rows.nbytes if len(rows) else 0)
        write_at(self._journal, key.encode(), 0)

    def _trusted_rows(self) -> np.ndarray:
        """The records up to the first that the other files do not bear out."""
        whole = (os.fstat(self._journal).st_size - _KEY_SIZE) // RECORD.itemsize
        rows = np.frombuffer(os.pread(self._journal, whole * RECORD.itemsize, _KEY_SIZE), RECORD)
        rows = rows[: self.writer.capacity]
        skipped = rows["mode"] == SKIPPED
        stored = (rows["size"] > 0) & (rows["pointer"] + rows["size"] <= os.fstat(self._partial).st_size)
        listed = np.cumsum(skipped) <= self._read_list().count(b"\n")
        good = np.where(skipped, listed, stored)
        return rows[: len(rows) if good.all() else int(good.argmin())]

    def _read_list(self) -> bytes:
        return os.pread(self._list, os.fstat(self._list).st_size, 0)

    def _end_of_line(self, lines: int) -> int:
        return sum(len(line) + 1 for line in self._read_list().split(b"\n")[:lines])


def remove_leftovers(target: Path) -> None:
    """Removes what a finished conversion needs no more: its journal, its lock and an empty quarantine list."""
    for suffix in (".journal", ".lock"):
        _beside(target, suffix).unlink(missing_ok=True)
    quarantine = quarantine_path(target)
    if quarantine.exists() and not quarantine.stat().st_size:
        quarantine.unlink()


def quarantine_path(target: Path) -> Path:
    """Where the images left out of ``target`` are listed."""
    return target.with_suffix(".quarantine.txt")


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)
