"""Philox4x32-10: random numbers as a pure function of a counter, so nothing about them needs to be stored.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Domain(IntEnum):
    """The fourth counter word says what a number is drawn for, so that no two purposes share numbers.

    A value that changes changes every run: what is resumed would go on differently.
    """

    CROPS = 0  # the first of the blocks of one crop: box, flip and colours (``multicrop/draws.py``)
    ORDER = 1 << 16  # in which order an epoch visits the samples (``order.py``)
    NEIGHBOUR = 2 << 16  # which sample stands in for one that cannot be decoded (``order.py``)
    PARTITION = 3 << 16  # CW-RGP's sub-batches of samples and groups of channels (``fastintl/losses/cw_rgp.py``)
    DETECTION_SAMPLING = 4 << 16  # which anchors and regions a detector learns from (``fastintl/detection``)
    DETECTION_VIEW = 5 << 16  # size and flip of an image that a detector learns from (``fastintl/detection``)
    NETWORK = 6 << 16  # dropout and the like within a network, see ``fastintl/network/randomness.py``


def philox(key: int, *counter: np.ndarray | int) -> np.ndarray:
    """Hashes a 64-bit key and a counter of up to four 32-bit words into four 32-bit words.

    Args:
        key: any integer; its lowest 64 bits count.
        counter: up to four integers or integer arrays that broadcast together; missing words are 0.

    Returns:
        uint64 array of the broadcast shape with a last axis of 4, every value below 2**32.
    """
    words = [np.asarray(word).astype(np.uint64) & _LOW for word in counter]
    words += [np.uint64(0)] * (4 - len(words))
    c0, c1, c2, c3 = np.broadcast_arrays(*words)
    key0, key1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT) ^ c1 ^ np.uint64(key0),
            product1 & _LOW,
            (product0 >> _SHIFT) ^ c3 ^ np.uint64(key1),
            product0 & _LOW,
        )
        key0, key1 = (key0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (key1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniform(words: np.ndarray) -> np.ndarray:
    """Turns 32-bit words into float64 numbers in [0, 1)."""
    return words * 2.0**-32
