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
from loaders.sources.decoded import DecodedBatch, interleaved
from loaders.sources.pixel_buffer import fits, pixel_memory
from loaders.sources.quarantine import Quarantine, decode_or_substitute


class FolderSource:
    """Decodes one batch ahead; the decoders release the interpreter's lock, so threads are enough.

    Args:
        images: the dataset.
        threads: decoder threads.
        quarantine: where bad images go.
        pinned: whether the pixels go to a GPU, see ``pixel_memory``.
    """

    def __init__(self, images: Images, threads: int, quarantine: Quarantine, pinned: bool = False) -> None:
        self._images, self._quarantine = images, quarantine
        self._arenas = Arena(pinned), Arena(pinned)  # of the batch in hand and the one that is decoded meanwhile
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
        samples, images = [], []
        for i, future in enumerate(futures):
            futures[i] = None  # only ``images`` holds what was decoded, and the arena can free it
            sample, image = future.result()
            samples.append(sample)
            images.append(image)
        ids = np.array(samples, dtype=np.int64)
        return arena.collect(images, self._images.labels[ids], ids)


class Arena:
    """One buffer that the decoder threads fill with the images of a batch, side by side; the next batch uses it again.

    An image in memory of its own costs its decoder fresh pages, and a copy into the batch afterwards: together a
    tenth of the decoding, and threads wait for each other while the system hands out the pages.
    """

    def __init__(self, pinned: bool = False) -> None:
        self._pinned, self._buffer = pinned, torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._lock = threading.Lock()

    def allocate(self, size: int) -> np.ndarray:
        """Room for ``size`` bytes, (size,) uint8; elsewhere where the buffer is full. Threads may call it at once."""
        with self._lock:
            start, self._used = self._used, self._used + size
        there = start + size <= len(self._buffer)
        return self._buffer[start : start + size].numpy() if there else np.empty(size, dtype=np.uint8)

    def collect(self, images: list[torch.Tensor], labels: np.ndarray, ids: np.ndarray) -> DecodedBatch:
        """The batch of the (H, W, 3) images that were allocated here; what is allocated next overwrites it.

        ``images`` is changed: where the buffer did not fit the batch, its images are moved to one that does.
        """
        needed = sum(image.numel() for image in images)
        if self._used > len(self._buffer) or not fits(self._buffer, needed):
            self._move(images, needed)
        pixels = self._buffer[: self._used]
        self.clear()
        heights, widths = (np.array([image.shape[axis] for image in images], dtype=np.int64) for axis in (0, 1))
        offsets = np.array([image.data_ptr() for image in images], dtype=np.int64) - self._buffer.data_ptr()
        return DecodedBatch(pixels, offsets, interleaved(widths), heights, widths, labels, ids)

    def _move(self, images: list[torch.Tensor], needed: int) -> None:
        """Moves the images, one by one so that they are never there twice, into a buffer that fits."""
        self._buffer, start = pixel_memory(needed, self._pinned), 0
        for i, image in enumerate(images):
            images[i] = self._buffer[start : start + image.numel()].view(image.shape).copy_(image)
            start += image.numel()
        self._used = needed

    def clear(self) -> None:
        """Forgets what was allocated."""
        self._used = 0
