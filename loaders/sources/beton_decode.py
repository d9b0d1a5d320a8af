"""FFCV's decoder, called from loops that numba compiles once and keeps in its cache.

FFCV compiles such a loop for every loader and in every process anew, which takes half a second each. What does the
work is the same: ``imdecode`` of FFCV's library, which ``use_library`` must have loaded.
"""

from __future__ import annotations

import llvmlite.binding
import numpy as np
from numba import njit, prange, types

from loaders.numba_options import compiled

_JPEG = 0  # FFCV's IMAGE_MODES

# Called by name, not through ctypes: numba does not cache code that holds a library's addresses.
_pointer, _side, _flag = types.uintp, types.uint32, types.boolean
_imdecode = types.ExternalFunction(
    "imdecode", types.int32(_pointer, types.uint64, _side, _side, _pointer, *[_side] * 6, _flag, _flag)
)


def use_library(path: str) -> None:
    """Makes the functions of FFCV's library known to compiled code; to be called before anything here is."""
    llvmlite.binding.load_library_permanently(path)


@compiled
def read(address, storage_state):
    """An image's bytes, as FFCV's ``OSCacheManager.compile_reader`` gives them: (file, addresses, sizes)."""
    file, addresses, sizes = storage_state
    return file[address : address + sizes[np.searchsorted(addresses, address)]]


@compiled
def _decode(image, storage_state, slot):
    """Decodes one image into the start of its slot; returns whether libjpeg-turbo had something to say."""
    data = read(image["data_ptr"], storage_state)
    if image["mode"] != _JPEG:
        for i in range(len(data)):  # to assign a slice takes numba a second and a half to compile
            slot[i] = data[i]
        return False
    height, width = np.uint32(image["height"]), np.uint32(image["width"])
    whole = height, width, np.uint32(0), np.uint32(0), np.uint32(1), np.uint32(1), False, False
    return _imdecode(data.ctypes.data, len(data), height, width, slot.ctypes.data, *whole) != 0


@compiled
def decode(samples, memory, metadata, storage_state):
    """Decodes the images ``samples`` (B,), one after the other: an operation of FFCV.

    Args:
        samples: positions in ``metadata``.
        memory: (slots, failed), written: uint8 (B, n), rows that begin with an image's pixels, and bool (B,), whether
            libjpeg-turbo had something to say.
        metadata: the table of FFCV's ``RGBImageField``.
        storage_state: see ``read``.

    Returns:
        ``memory``.
    """
    slots, failed = memory
    for i in range(len(samples)):
        failed[i] = _decode(metadata[samples[i]], storage_state, slots[i])
    return slots, failed


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def decode_in_threads(samples, memory, metadata, storage_state):
    """The same by numba's threads."""
    slots, failed = memory
    for i in prange(len(samples)):
        failed[i] = _decode(metadata[samples[i]], storage_state, slots[i])
    return slots, failed  # by their names: numba would take writing to an array that is not read again for dead code
