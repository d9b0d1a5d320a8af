"""Decodes in Python threads: an image folder, or a ``.beton`` where FFCV is not installed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch

from loaders.quarantine import Quarantine
from loaders.sources import Images
from loaders.sources.arena import Arena
from loaders.sources.bad_images import decode_or_substitute
from loaders.sources.decoded import DecodedBatch


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
