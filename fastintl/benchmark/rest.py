"""A pause between contenders that share a process."""

from __future__ import annotations

import time

_SECONDS = 0.5


def let_threads_sleep() -> None:
    """Waits until the threads of the contender before take no more time.

    OpenMP's teams, of which torch, scikit-learn and faiss each bring one, spin for 200 ms after their work by default.
    """
    time.sleep(_SECONDS)
