"""What a tar file holds, found by its headers alone: names, and where the bytes of each member lie.

Nothing is unpacked and no name is ever used as a path. ``tarfile`` reads the same at 20,000 members a second, too slow
for ImageNet. What is read: the formats ustar, GNU and PAX (POSIX.1-2001), and of their extensions long names and sizes.
What would need more than a place in the file, sparse members and links, is refused.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loaders.errors import UserError

BLOCK = 512
_WINDOW = 4096
_LONGEST_TEXT = 1 << 20  # bytes of a header that holds a name
_MOST_DIGITS = 20  # of a number in a PAX header
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_FILES, _LINKS, _NOT_FILES = b"0\0\x37", b"12", b"3456V"  # type flags; directories, devices and labels are left out
_EXTENSIONS = b"LKxXg"  # say something of the member behind them: GNU's two, PAX's
_ZEROS = bytes(BLOCK)


class Member(NamedTuple):
    """A file in a tar: its ``name``, without ``./`` before it, and its place in bytes from the start of the file."""

    name: str
    offset: int
    size: int


class TarFile:
    """A tar file, open for reading; a context manager.

    Raises:
        UserError: it cannot be read, or is compressed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self._descriptor).st_size
            # Members are far apart: to read ahead would read the whole file.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            start = self.read(0, BLOCK)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        self.refuse_compressed(start, str(path))

    def __enter__(self) -> TarFile:
        return self

    def __exit__(self, *error) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def refuse_compressed(self, start: bytes, name: str) -> None:
        """Raises ``UserError`` where the first bytes are those of a compressed file."""
        kind = compression(start)
        if kind is not None:
            raise compressed(name, kind)

    def members(self, start: int = 0, size: int | None = None, name: str | None = None) -> Iterator[Member]:
        """The files in the tar, in its order.

        Args:
            start, size: where the tar lies, if it is a member of this file.
            name: what such a tar is called.

        Raises:
            UserError: it is cut off, damaged, or holds what cannot be read in place.
        """
        where = str(self.path) if name is None else f"{self.path}/{name}"
        position, end = start, self.size if size is None else start + size
        self.refuse_compressed(self.read(start, 8), where)
        long_name, long_size, described = None, None, b""  # what headers of extensions say of the next member
        window, window_start = b"", 0  # a page at a time, in which small members have several headers
        while True:
            header = window[position - window_start : position - window_start + BLOCK]
            if len(header) < BLOCK:
                window, window_start = self.read(position, _WINDOW), position
                header = window[:BLOCK]
            if len(header) < BLOCK or position + BLOCK > end:
                raise UserError(f"{where} is cut off: it ends without a tar's mark of the end; copy it again")
            if header == _ZEROS and not described:
                break
            if not _is_header(header):
                if position == start:
                    raise UserError(f"{where} is no tar: it does not begin with a member; copy or write it again")
                place = position - start
                raise UserError(f"{where} is damaged at byte {place:,}: no member begins there; copy or write it again")
            kind, member_size = header[156:157], _number(header[124:136], where)
            if long_size is not None and kind not in _EXTENSIONS:
                member_size, long_size = long_size, None
            data, position = position + BLOCK, position + BLOCK + -(-member_size // BLOCK) * BLOCK
            if data + member_size > end:
                raise UserError(f"{where} is cut off: its last member is not whole; copy it again")
            if kind in _EXTENSIONS:
                if member_size > _LONGEST_TEXT or kind in described:
                    what = "two names for one member" if kind in described else f"a name of {member_size:,} bytes"
                    raise UserError(f"{where} is damaged at byte {data - start:,}: {what}; copy or write it again")
                text, described = self.read(data, member_size), described + kind.strip(b"g")
                if kind == b"L":
                    long_name = text.rstrip(b"\0")
                elif kind in b"xX":
                    records = _records(text, where)
                    if any(key.startswith(b"GNU.sparse") for key in records):
                        raise _refused(where, records.get(b"path", b""), "a sparse file")
                    long_name = records.get(b"path", long_name)
                    long_size = _whole(records[b"size"], where) if b"size" in records else None
                continue
            raw, long_name, described = _name(header) if long_name is None else long_name, None, b""
            if kind in _FILES and raw.endswith(b"/") or kind in _NOT_FILES:  # a folder, as the oldest tars have it
                if member_size:  # whose bytes some readers pass over and others take for the next member
                    place = data - BLOCK - start
                    raise UserError(
                        f"{where} is damaged at byte {place:,}: a folder with bytes; copy or write it again"
                    )
                continue
            if kind not in _FILES:
                raise _refused(where, raw, "a link" if kind in _LINKS else "a sparse file or of an unknown kind")
            yield Member(_clean(raw, where), data, member_size)
        self._require_zeros(position, end, where)

    def _require_zeros(self, position: int, end: int, where: str) -> None:
        """Refuses what lies behind the mark of the end: two tars, joined, whose second nobody would read."""
        while position < end:
            rest = self.read(position, min(end - position, 1 << 20))
            if rest.count(0) < len(rest):
                raise UserError(
                    f"{where} goes on behind a tar's mark of the end, as files do that were joined: "
                    "give the tars apart, or write it again"
                )
            if not rest:
                return
            position += len(rest)


def compression(start: bytes) -> str | None:
    """The name of the compression whose files begin so; None of none that is known."""
    return next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)


def compressed(name: object, kind: str) -> UserError:
    """The error that refuses a compressed file."""
    return UserError(
        f"{name} is compressed ({kind}), and what is compressed cannot be read from the middle: decompress it once, to "
        "a plain .tar; images are compressed as they are"
    )


def is_tar(path: Path) -> bool:
    """Whether a file begins as a tar does, or is an empty one."""
    try:
        with open(path, "rb") as file:
            start = file.read(BLOCK)
    except OSError:
        return False
    return len(start) == BLOCK and (start == _ZEROS or _is_header(start))


def _is_header(block: bytes) -> bool:
    """Whether its checksum is right, the sum of all bytes with blanks in its own place.

    Adler-32 has the sum plus one in its lower half, modulo 65521: twenty times as fast as a sum in Python.
    """
    field = block[148:156]
    try:
        stated = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return ((zlib.adler32(block) & 0xFFFF) - 1 - sum(field) + 8 * ord(" ") - stated) % 65521 == 0


def _number(field: bytes, where: str) -> int:
    """A header's number, octal, or of 256 where it is larger."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip() or b"0"
    try:
        if digits.isdigit():  # int() takes signs and underscores too
            return int(digits, 8)
    except ValueError:  # an 8 or a 9
        pass
    raise UserError(f"{where} is damaged: a member's size is {field!r}; copy or write it again")


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _records(text: bytes, where: str) -> dict[bytes, bytes]:
    """A PAX header, lines ``length key=value``."""
    records, position = {}, 0
    while position < len(text) and text[position]:
        digits, _, _ = text[position:].partition(b" ")
        length = _whole(digits, where)
        key, _, value = text[position + len(digits) + 1 : position + length - 1].partition(b"=")
        if not 0 < length <= len(text) - position or not key:
            raise _damaged_records(where)
        records[key], position = value, position + length
    return records


def _whole(digits: bytes, where: str) -> int:
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise _damaged_records(where)
    return int(digits)


def _damaged_records(where: str) -> UserError:
    return UserError(f"{where} is damaged: a member's PAX header cannot be read; copy or write it again")


def _clean(raw: bytes, where: str) -> str:
    """A member's name, its parts joined by single slashes."""
    name = raw.decode("utf-8", "surrogateescape")
    if name.startswith(("/", ".")) or "//" in name or "/." in name or "\0" in name:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise _refused(where, raw, "outside of it")
        name = "/".join(parts)
    return name


def _refused(where: str, name: bytes, what: str) -> UserError:
    shown = name.decode("utf-8", "backslashreplace")
    return UserError(f"{where} holds the member {shown}, which is {what} and cannot be read in place: unpack the tar")
