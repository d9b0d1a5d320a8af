"""Files from the network: there when they are complete and checked, and not before."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from loaders.errors import UserError
from loaders.files import file_digest, replacing
from loaders.lock import Lock

_STALLED_SECONDS = 60.0  # without a byte


def download(url: str, path: Path, sha256: str | None = None, md5: str | None = None) -> None:
    """Downloads a file, unless it is there; of several processes that want it one downloads and the others wait.

    Args:
        path: where it is wanted; its folder is made.
        sha256, md5: its checksums in hexadecimal; of the first, a prefix will do.

    Raises:
        UserError: it cannot be fetched, or has another checksum.
    """
    import torch  # late, so that a command's --help does not wait for it

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(f".{path.name}.lock")), _time_limit():
            if path.exists():
                return
            for leftover in path.parent.glob(f".{path.name}.*.partial"):  # of a download that was killed
                leftover.unlink()
            with replacing(path) as arriving:
                torch.hub.download_url_to_file(url, str(arriving), sha256, progress=sys.stderr.isatty())
                if md5 and (found := file_digest(arriving, "md5")) != md5:
                    raise UserError(
                        f"{url} is not the published file: its MD5 sum is {found} and should be {md5}; put the right "
                        f"one at {path}"
                    )
    except (OSError, HTTPException, RuntimeError, ValueError) as error:  # torch raises the last two
        raise UserError(f"{url} cannot be fetched ({error}): put the file at {path} by other means") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process is in this block; ``path`` is a lock's file, which is removed at the end."""
    lock = Lock(path, patience=-1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


@contextmanager
def _time_limit() -> Iterator[None]:
    """Connections that stall end with an error; torch by itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
