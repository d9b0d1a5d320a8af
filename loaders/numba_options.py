"""How loops are compiled by numba, and where the machine code is kept."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numba.core.dispatcher import Dispatcher


def kept(**options: Any) -> Callable[[Callable], Callable]:
    """``numba.njit`` with the interpreter's lock released and the machine code kept for the next process.

    numba keeps it beside the source, or else in the user's own cache (``NUMBA_CACHE_DIR`` names another place). Where
    it can write to none, as in a read-only installation without a home, it compiles in each process anew.
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Callable) -> Callable:
        try:
            dispatcher = njit(cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return njit(**options)(function)
        if isinstance(dispatcher, Dispatcher):  # the function itself with NUMBA_DISABLE_JIT
            _stamp_with_imports(dispatcher)
        return dispatcher

    return decorate


def is_yet_to_be_kept(function: Callable) -> bool:
    """Whether the first call will compile it for all processes that follow: no code of it is kept, but can be."""
    file = _file_of_kept_code(function)
    return file is not None and not file._load_index()


def _stamp_with_imports(dispatcher: Dispatcher) -> None:
    """Has code that is kept forgotten when what its module imports has changed, too.

    numba looks at the date of the function's own file alone, but the code holds the loops and the numbers that other
    modules gave it: after an update of those it would go on computing what it did before.
    """
    given = hashlib.sha256()
    for name, value in dispatcher.py_func.__globals__.items():
        if isinstance(value, Dispatcher) and value.__module__ != dispatcher.__module__:
            value = _stamp(value)
        elif not isinstance(value, int | float | tuple | np.generic | np.ndarray):
            continue
        given.update(pickle.dumps((name, value)))
    _file_of_kept_code(dispatcher)._source_stamp = _stamp(dispatcher), given.hexdigest()


def _stamp(dispatcher: Dispatcher) -> Any:
    """What numba compares with that of kept code; None of what keeps none, and has no way to name it."""
    return getattr(_file_of_kept_code(dispatcher), "_source_stamp", None)


def _file_of_kept_code(function: Callable) -> Any:
    """numba's own object; None of what keeps no code."""
    return getattr(getattr(function, "_cache", None), "_cache_file", None)


compiled = kept(fastmath=True)
# Sums may be vectorised; NaN and infinities keep their meaning.
compiled_with_nan = kept(fastmath={"reassoc", "contract", "nsz"})
