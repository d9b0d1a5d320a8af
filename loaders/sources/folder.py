"""Decodes in Python threads: an image folder, or a ``.beton`` where FFCV is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from loaders.quarantine import Quarantine
from loaders.sources import DecodedBatch, Pictures
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
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given."""
        ahead = [self._submit(ids) for ids in id_batches[:1]]
        for ids in [*id_batches[1:], np.empty(0, dtype=np.int64)]:
            ahead.append(self._submit(ids))
            yield self._collect(ahead.pop(0))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, ids: np.ndarray) -> list[Future[tuple[int, torch.Tensor]]]:
        return [self._pool.submit(decode_or_substitute, self._pictures, int(i), self._quarantine) for i in ids]

    def _collect(self, futures: list[Future[tuple[int, torch.Tensor]]]) -> DecodedBatch:
        decoded = [future.result() for future in futures]
        ids = np.array([sample for sample, _ in decoded], dtype=np.int64)
        pictures = [picture for _, picture in decoded]
        return DecodedBatch(
            pictures=pictures,
            heights=np.array([picture.shape[0] for picture in pictures]),
            widths=np.array([picture.shape[1] for picture in pictures]),
            labels=self._pictures.labels[ids],
            ids=ids,
        )
