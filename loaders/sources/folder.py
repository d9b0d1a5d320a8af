"""Decodes in Python threads: an image folder, or a ``.beton`` where FFCV is not installed."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch

from loaders.sources import Images
from loaders.sources.decoded import DecodedBatch, interleaved, packed
from loaders.sources.quarantine import Quarantine, decode_or_substitute

_ROOM = 1.25  # times the largest batch so far: batches differ in size


class FolderSource:
    """Decodes one batch ahead; the decoders release the interpreter's lock, so threads are enough.

    Args:
        images: the dataset.
        threads: decoder threads.
        quarantine: where bad images go.
    """

    def __init__(self, images: Images, threads: int, quarantine: Quarantine) -> None:
        self._images, self._quarantine = images, quarantine
        self._arenas = Arena(), Arena()  # of the batch in hand and the one that is decoded meanwhile
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given."""
        under_way: deque[tuple[Arena, list[Future]]] = deque()
        try:
            for ids, arena in zip(id_batches, itertools.cycle(self._arenas), strict=False):
                under_way.append((arena, [self._pool.submit(self._decode, int(i), arena) for i in ids]))
                if len(under_way) > 1:
                    yield self._collect(*under_way.popleft())
            while under_way:
                yield self._collect(*under_way.popleft())
        finally:
            for arena, futures in under_way:  # left early
                for future in futures:
                    future.cancel()
                wait(futures)  # what runs still writes into the arena
                arena.clear()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, sample: int, arena: Arena) -> tuple[int, torch.Tensor]:
        return decode_or_substitute(self._images, sample, self._quarantine, arena.allocate)

    def _collect(self, arena: Arena, futures: list[Future[tuple[int, torch.Tensor]]]) -> DecodedBatch:
        samples, images = zip(*(future.result() for future in futures), strict=True)
        ids = np.array(samples, dtype=np.int64)
        return arena.collect(list(images), self._images.labels[ids], ids)


class Arena:
    """One buffer that the decoder threads fill with the images of a batch, side by side; the next batch uses it again.

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
