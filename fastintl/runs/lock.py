"""One process at a time writes a run's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TextIO

from loaders.errors import UserError

# A killed process may take a while to be gone: it finishes the write that it is in.
_PATIENCE_SECONDS = 30.0


def lock_run(folder: Path) -> TextIO | None:
    """Takes the lock of a run's folder; closing the file gives it back, and so does any end of the process.

    Returns:
        The locked file; None on a file system without locks.

    Raises:
        UserError: another process trains this run, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written ({error.strerror}): set out= elsewhere") from error
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                file.close()
                return None
            if time.monotonic() > deadline:
                holder = _holder(file)
                file.close()
                raise UserError(
                    f"{folder} is being trained by another process ({holder}): stop that one, or wait for its end"
                ) from None
        time.sleep(0.1)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    return file


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read() or "unknown"
