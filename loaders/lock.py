"""One process at a time: a lock whose file says who holds it, given back by any end of the process."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout


class Held(Exception):
    """Another process holds the lock; the text says which, as ``process 123 on node4``."""


class Lock:
    """Takes a lock. On a file system without locks (some of a network have none) nothing is held.

    Args:
        path: the lock's file; it is made, and stays when the lock is given back.
        patience: seconds to wait for another process; 0 gives up at once, a negative number never.

    Raises:
        Held: another process has it.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        path.touch()  # FileLock's own error for a folder that cannot be written is as one for missing locks
        # Not of a thread, so that any thread may give it back; and never a mere file in place of a lock, which a kill
        # would leave behind.
        self._lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire(timeout=patience, poll_interval=0.1)
        except Timeout:
            raise Held(path.read_text() or "unknown") from None
        except OSError:
            return
        path.write_text(f"process {os.getpid()} on {os.uname().nodename}")

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.release()
