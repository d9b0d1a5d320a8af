"""Where each image of some tars lies, kept on disk between runs as arrays that are mapped into memory.

An index is found again by what the tars hold: their names, sizes and times, and bytes from a thousand places of them.
That can miss a tar that was changed in place, between those places, by a program that also set its time back.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.datasets.split import file_stamp
from loaders.errors import UserError
from loaders.files import cache_folder
from loaders.lock import Lock

_FORMAT = 2  # raise it when an index would come out otherwise
_PLACES, _LEAST_PLACES, _PLACE = 1000, 4, 4096  # of all tars together, of each, and its bytes
_KEPT_DAYS = 90
_PIECE = 1 << 20  # bytes
_THREADS = 16  # they wait for the disk, or for a server's
_ENTRY = np.dtype([("tar", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i4")])
_ENTRIES, _NAMES, _ENDS, _ABOUT = "entries.npy", "names.npy", "ends.npy", "about.json"


class PackedNames(Sequence[str]):
    """Names in one array: 1.28 million of them take 50 MB, where strings take 120.

    Args:
        text: the names in UTF-8, one behind the other, each with a zero byte at its end; (bytes,) uint8.
        ends: where each ends, its zero byte not counted, int64 (n,).
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Sequence[str]) -> PackedNames:
        text = "".join(name + "\0" for name in names).encode("utf-8", "surrogateescape")
        packed = np.frombuffer(text, np.uint8)
        return cls(packed, np.flatnonzero(packed == 0))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) + 1 if index else 0
        return self.text[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        step = 10_000
        for first in range(0, len(self), step):
            start = int(self.ends[first - 1]) + 1 if first else 0
            end = int(self.ends[min(first + step, len(self)) - 1])
            yield from self.text[start:end].tobytes().decode("utf-8", "surrogateescape").split("\0")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))


@dataclass(frozen=True)
class TarIndex:
    """The images of some tars, in the order of the dataset.

    Attributes:
        tars: which of the tars each lies in, (n,).
        offsets, sizes: its place there in bytes, (n,).
        labels: class indices, (n,); -1 where unknown.
        names: n names.
        classes: class names by label; none where unknown.
    """

    tars: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    names: PackedNames
    classes: list[str]

    def save(self, folder: Path) -> None:
        entries = np.empty(len(self.tars), _ENTRY)
        for name, column in zip(_ENTRY.names, (self.tars, self.offsets, self.sizes, self.labels), strict=True):
            entries[name] = column
        np.save(folder / _ENTRIES, entries)
        np.save(folder / _NAMES, self.names.text)
        np.save(folder / _ENDS, self.names.ends.astype("<i8"))
        about = {"classes": self.classes, "checksums": _checksums(folder, self.classes)}
        (folder / _ABOUT).write_text(json.dumps(about))

    @classmethod
    def load(cls, folder: Path) -> TarIndex | None:
        """The index that was saved in ``folder``; None where there is none, or a damaged one."""
        try:
            about = json.loads((folder / _ABOUT).read_text())
            if about["checksums"] != _checksums(folder, about["classes"]):
                return None
            entries, text, ends = (np.load(folder / name, mmap_mode="r") for name in (_ENTRIES, _NAMES, _ENDS))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        columns = (entries[name] for name in _ENTRY.names)
        return cls(*columns, PackedNames(text, ends), about["classes"])


def _checksums(folder: Path, classes: list[str]) -> list[int]:
    """Of the classes and of each file of arrays; read piece by piece, since what is read through a map stays with the
    process."""
    found = [zlib.crc32(json.dumps(classes).encode())]
    for name in (_ENTRIES, _NAMES, _ENDS):
        with open(folder / name, "rb") as file:
            checksum = 0
            while piece := file.read(_PIECE):
                checksum = zlib.crc32(piece, checksum)
        found.append(checksum)
    return found


def kept_index(identity: str, build: Callable[[], TarIndex]) -> TarIndex:
    """The index of the tars that are known by ``identity``, from the cache or, if it is not there, made now.

    Of several processes one makes it and the others wait. Where nothing can be kept, each makes its own. What nobody
    has asked for in ``_KEPT_DAYS`` is removed when another is kept.
    """
    folder = cache_folder("tar_indexes") / identity
    if (known := TarIndex.load(folder)) is not None:
        with suppress(OSError):  # somebody else's cache
            os.utime(folder)
        return known
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder.with_name(f"{identity}.lock"), patience=-1)
    except OSError:  # a home that cannot be written
        return build()
    try:
        known = TarIndex.load(folder)
        if known is None:
            index = build()
            with suppress(OSError):  # a full disk
                _publish(index, folder)
            known = TarIndex.load(folder) or index
        return known
    finally:
        lock.close()


def tars_identity(tars: Sequence[Path], *parts: object) -> str:
    """What tars are known by, in hexadecimal; see above.

    Args:
        parts: what else an index depends on.
    """
    try:
        digest = hashlib.blake2b(repr((_FORMAT, file_stamp(tars), parts)).encode(), digest_size=24)
        places = max(_LEAST_PLACES, _PLACES // len(tars))
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="tars") as pool:
            for data in pool.map(lambda tar: _look_into(tar, places), tars):
                digest.update(data)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _look_into(tar: Path, places: int) -> bytes:
    digest = hashlib.blake2b()
    with open(tar, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for offset in np.unique(np.linspace(0, max(0, size - _PLACE), places).astype(np.int64)).tolist():
            digest.update(os.pread(file.fileno(), _PLACE, offset))
    return digest.digest()


def _publish(index: TarIndex, folder: Path) -> None:
    for other in folder.parent.iterdir():
        with suppress(OSError):  # another process removes it too
            if time.time() - other.stat().st_mtime > 86_400 * _KEPT_DAYS:
                shutil.rmtree(other) if other.is_dir() else other.unlink()
    written = Path(tempfile.mkdtemp(prefix=".writing", dir=folder.parent))
    try:
        index.save(written)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        os.rename(written, folder)
    finally:
        shutil.rmtree(written, ignore_errors=True)
