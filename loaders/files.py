"""Files written under another name first: whoever looks finds the old file or the new one, never half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loaders.errors import UserError

_NAMES = {"encoding": "utf-8", "errors": "surrogateescape"}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; what was written there is flushed to disk and renamed at the end.

    Raises:
        OSError: it cannot be written. ``path`` is as it was, and the temporary file is gone again.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        yield temporary
        publish(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def publish(temporary: Path, path: Path) -> None:
    """Gives a finished file its name, in one step that outlasts a power failure; both are in the same folder."""
    _flush(temporary)
    os.replace(temporary, path)
    with suppress(OSError):  # not every file system can flush a folder
        _flush(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed process left half written in ``folder``."""
    for path in folder.glob(".*.writing"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing, as UTF-8; a pipe or a terminal is written to as it is.

    File names need not be valid UTF-8; theirs are the bytes that they have on disk.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, **_NAMES)
        return
    with replacing(path) as temporary:
        temporary.write_text(text, **_NAMES)


def write_json(path: Path, value: Any) -> None:
    """Writes a result of a tool, and the folders on the way to ``path``.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def file_digest(path: Path, algorithm: str) -> str:
    """A file's checksum in hexadecimal; ``algorithm`` is a name that ``hashlib`` knows, such as ``"sha256"``.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def cache_folder(name: str) -> Path:
    """The folder of this user for what can be made anew: ``~/.cache/fastintl/<name>``, not made yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastintl" / name


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
