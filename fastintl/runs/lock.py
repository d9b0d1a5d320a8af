"""One process at a time writes a run's folder."""

from __future__ import annotations

from pathlib import Path

from loaders.errors import UserError
from loaders.lock import Held, Lock

# A killed process may take a while to be gone: it finishes the write that it is in.
_PATIENCE_SECONDS = 30.0


def lock_run(folder: Path) -> Lock:
    """Takes the lock of a run's folder; closing it gives it back, and so does any end of the process.

    Raises:
        UserError: another process trains this run, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Lock(folder / ".lock", _PATIENCE_SECONDS)
    except Held as holder:
        raise UserError(
            f"{folder} is being trained by another process ({holder}): stop that one, or wait for its end"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the run folder {folder} cannot be written ({reason}): set out= elsewhere") from error
