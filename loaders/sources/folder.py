"""Decodes in Python threads: an image folder, or a ``.beton`` where FFCV is not installed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from loaders.quarantine import Quarantine
from loaders.sources import Pictures
from loaders.sources.decoded import DecodedBatch, packed
from loaders.sources.substitute import decode_or_substitute


class FolderSource:
    """Decodes one batch ahead; the decoders release the interpreter's lock, so threads are enough.

    Args:
        pictures: the data set.
        threads: decoder threads.
        quarantine: where bad pictures go.
    """

    def __init__(self, pictures: Pictures, threads: int, quarantine: Quarantine) -> None:
        self._pictures, self._quarantine = pictures, quarantine
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given."""
        under_way: deque[list[Future]] = deque()
        try:
            for ids in id_batches:
                under_way.append([self._pool.submit(self._decode, int(i)) for i in ids])
                if len(under_way) > 1:
                    yield self._collect(under_way.popleft())
            while under_way:
                yield self._collect(under_way.popleft())
        finally:
            for future in itertools.chain.from_iterable(under_way):
                future.cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, sample: int) -> tuple[int, torch.Tensor]:
        return decode_or_substitute(self._pictures, sample, self._quarantine)

    def _collect(self, futures: list[Future[tuple[int, torch.Tensor]]]) -> DecodedBatch:
        decoded = [future.result() for future in futures]
        ids = np.array([sample for sample, _ in decoded], dtype=np.int64)
        pictures = [picture for _, picture in decoded]
        size = sum(picture.numel() for picture in pictures)
        if size > len(self._buffer):
            # Page-locked where there is a GPU, so that it is copied there without the CPU.
            self._buffer = torch.empty(size * 5 // 4, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        return packed(pictures, self._pictures.labels[ids], ids, self._buffer)
