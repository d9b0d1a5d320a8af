"""How commands, and the processes that they start, import what takes seconds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext


@contextmanager
def late_imports(crops_on: str | None = None) -> Iterator[None]:
    """Around the imports of a command that works with torch: Python looks for no garbage meanwhile, and from then on
    among newer objects alone.

    torch, and what comes with it, are half a million objects that stay. To go through them again and again is a fifth
    of the import's time, and later each time a fifth of a second, in the middle of a training, on one rank after
    another. Where torch has been imported before, by whoever calls the command from Python, nothing changes: what is
    garbage by then would stay, too.

    Args:
        crops_on: the device on which the command will cut random crops, as a user names it; None: it cuts none. Loops
            that the CPU needs for them, and that no process has compiled yet, are compiled in the background.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        if crops_on == "cpu":
            from loaders.multicrop import background_compilation

            background_compilation.begin()
        yield
    finally:
        gc.freeze()
        gc.enable()


def fork_server(*modules: str) -> ForkServerContext:
    """The context of multiprocessing whose processes are forks of one that has imported these modules.

    Every process has one such server: what it imports is what was named before the first fork.
    """
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*modules, "loaders.frozen"])
    return context
