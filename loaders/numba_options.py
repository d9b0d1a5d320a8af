"""How loops are compiled by numba, and where the machine code is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kept(**options: Any) -> Callable[[Callable], Callable]:
    """``numba.njit`` with the interpreter's lock released and the machine code kept for the next process.

    numba keeps it beside the source, or else in the user's own cache (``NUMBA_CACHE_DIR`` names another place). Where
    it can write to none, as in a read-only installation without a home, it compiles in each process anew.
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Callable) -> Callable:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return njit(**options)(function)

    return decorate


compiled = kept(fastmath=True)
