"""One buffer that decoder threads fill with the images of a batch, side by side."""

from __future__ import annotations

import threading

import numpy as np
import torch

from loaders.sources.decoded import DecodedBatch, interleaved, packed

_ROOM = 1.25  # of the largest batch so far: batches differ in size


class Arena:
    """Room for the decoded images of one batch, used again by the next one.

    An image in memory of its own costs its decoder fresh pages, and a copy into the batch afterwards: together a
    tenth of the decoding, and threads wait for each other while the system hands out the pages.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._lock = threading.Lock()

    def allocate(self, size: int) -> np.ndarray:
        """Room for ``size`` bytes, (size,) uint8; elsewhere where the buffer is full. Threads may call it at once."""
        with self._lock:
            start, self._used = self._used, self._used + size
        fits = start + size <= len(self._buffer)
        return self._buffer[start : start + size].numpy() if fits else np.empty(size, dtype=np.uint8)

    def collect(self, images: list[torch.Tensor], labels: np.ndarray, ids: np.ndarray) -> DecodedBatch:
        """The batch of the (H, W, 3) images that were allocated here; what is allocated next overwrites it."""
        full = self._used > len(self._buffer)
        self.clear()
        if full:
            needed = sum(image.numel() for image in images)
            self._buffer = torch.empty(max(int(needed * _ROOM), len(self._buffer)), dtype=torch.uint8)
            return packed(images, labels, ids, self._buffer)
        heights, widths = (np.array([image.shape[axis] for image in images], dtype=np.int64) for axis in (0, 1))
        offsets = np.array([image.data_ptr() for image in images], dtype=np.int64) - self._buffer.data_ptr()
        return DecodedBatch(self._buffer, offsets, interleaved(widths), heights, widths, labels, ids)

    def clear(self) -> None:
        """Forgets what was allocated."""
        self._used = 0
