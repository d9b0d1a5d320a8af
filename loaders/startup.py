"""How commands import what they need late."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def late_imports() -> Iterator[None]:
    """Around the imports of a command that trains or evaluates: Python looks for no garbage meanwhile, and from then on
    among newer objects alone.

    torch, and what comes with it, are half a million objects that stay. To go through them again and again is a fifth
    of the import's time, and later each time a fifth of a second, in the middle of a training, on one rank after
    another. Where torch has been imported before, by whoever calls the command from Python, nothing changes: what is
    garbage by then would stay, too.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
