"""How the CPU engine's loops are compiled."""

from __future__ import annotations

from numba import njit

compiled = njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
