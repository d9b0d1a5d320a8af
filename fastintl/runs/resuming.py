"""How the ranks take up a run together: its folder is theirs alone, and all go on from the same checkpoint."""

from __future__ import annotations

from typing import Any

from fastintl.distributed import World
from fastintl.distributed.agreement import Agreement
from fastintl.runs.checkpoint import Checkpoints
from fastintl.runs.folder import RunFolder
from fastintl.runs.lock import lock_run
from loaders.errors import UserError
from loaders.files import remove_temporaries
from loaders.lock import Lock


def take_folder(folder: RunFolder, world: World, agreement: Agreement) -> Lock | None:
    """Waits until no other process writes the run's folder, and removes what a killed one left half written.

    Returns:
        The lock on the first rank, see ``lock_run``; None on the others.
    """
    lock = None
    if world.is_main:
        lock = lock_run(folder.path)
        remove_temporaries(folder.path)
        remove_temporaries(folder.checkpoints)
    agreement.wait()  # the other ranks read nothing before
    return lock


def load_latest(checkpoints: Checkpoints, agreement: Agreement) -> dict[str, Any] | None:
    """The newest state, on every rank; None if there is none.

    Raises:
        UserError: it is damaged, or the ranks do not find the same.
    """
    state = checkpoints.load_latest()
    if not agreement.same(state["step"] if state else -1):
        raise UserError(
            f"the ranks do not find the same checkpoint in {checkpoints.folder}: set out= (--out of a tool) to a "
            "folder that all nodes share"
        )
    return state
