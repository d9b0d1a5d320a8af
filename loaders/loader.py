"""``make_loader``: source, draws and engine behind one iterator with a position."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from loaders.errors import UserError
from loaders.multicrop.cpu import CpuCenterCrop, CpuMultiCrop
from loaders.order import Order
from loaders.quarantine import Quarantine
from loaders.recipe import CenterCrop, MultiCrop
from loaders.sources import DecodedBatch, Pictures, Source, open_pictures, open_source
from loaders.sources.substitute import decode_or_substitute

_BATCHES_AHEAD = 2


@dataclass
class Batch:
    """One rank's share of a batch.

    Attributes:
        views: V tensors (B / W, 3, s, s), normalised, channels_last.
        labels: (B / W,) int64 class indices, -1 where unknown.
        ids: (B / W,) int64 sample ids.
    """

    views: list[torch.Tensor]
    labels: torch.Tensor
    ids: torch.Tensor


def make_loader(
    data: str | Path,
    recipe: MultiCrop | CenterCrop,
    batch_size: int,
    *,
    source: str = "auto",
    device: str | torch.device = "cpu",
    seed: int = 0,
    epoch: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 0,
    samples: Sequence[int] | None = None,
    max_bad: float = 0.05,
    quarantine: str | Path | None = None,
) -> Loader:
    """Opens a data set as a loader.

    With a ``MultiCrop`` recipe it shuffles, drops the last incomplete batch and draws random crops, all a pure
    function of (seed, epoch, sample, view). With a ``CenterCrop`` it keeps the file's order and every sample.

    Args:
        data: a ``.beton`` file or a folder ``class/picture``.
        recipe: the views.
        batch_size: pictures in a batch over all ranks.
        source: decoder, ``"auto"``, ``"ffcv"`` or ``"folder"``.
        device: where the views are wanted.
        seed: of order and crops.
        epoch, start_batch: position of the first batch.
        rank, world_size: this process's share of every batch.
        threads: host threads; 0 takes all cores this process may use.
        samples: ids of the samples to use; None uses all.
        max_bad: share of pictures that may fail to decode; past it iterating raises ``UserError`` with the list.
        quarantine: file that lists the pictures that failed.

    Raises:
        UserError: bad data, an unknown source, or a batch that the ranks cannot share.
    """
    pictures = open_pictures(data)
    threads = threads or len(os.sched_getaffinity(0))
    quarantine = Quarantine(pictures.path, len(pictures), max_bad, Path(quarantine) if quarantine else None)
    opened, explanation = open_source(pictures, source, threads, quarantine)
    engine = CpuMultiCrop(recipe, threads) if isinstance(recipe, MultiCrop) else CpuCenterCrop(recipe, threads)
    order = Order(
        np.arange(len(pictures)) if samples is None else np.asarray(samples),
        batch_size,
        shuffled=isinstance(recipe, MultiCrop),
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    loader = Loader(pictures, quarantine, opened, explanation, engine, order, torch.device(device))
    loader.set_position(epoch, start_batch)
    return loader


class Loader:
    """Iterating yields the batches from the position to the end of its epoch and moves on to the next epoch.

    Its only state is the position, so setting it resumes exactly, at any world size and from any source.

    Attributes:
        pictures: the data set: ``len``, ``labels``, ``names``, ``classes``.
        source: a few words on which decoder was chosen, and why.
    """

    def __init__(
        self,
        pictures: Pictures,
        quarantine: Quarantine,
        source: Source,
        explanation: str,
        engine: CpuMultiCrop | CpuCenterCrop,
        order: Order,
        device: torch.device,
    ) -> None:
        self.pictures, self.source = pictures, explanation
        self._quarantine, self._source, self._engine = quarantine, source, engine
        self._order, self._device = order, device
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def set_position(self, epoch: int, batch: int) -> None:
        """The next iteration starts at this batch of this epoch."""
        if not 0 <= batch <= len(self):
            raise UserError(f"batch {batch} is not within the epoch's {len(self)} batches")
        self._epoch, self._batch = epoch, batch

    def __iter__(self) -> Iterator[Batch]:
        produced = _Ahead(self._produce(self._epoch, self._batch))
        try:
            for batch in produced:
                self._batch += 1
                yield batch
        finally:
            produced.stop()
        self._epoch, self._batch = self._epoch + 1, 0

    def crops(self, sample: int, epoch: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One sample, whole and as an epoch crops it (up to the rounding of the decoder); for looking at.

        Returns:
            The picture, uint8 (H, W, 3), and its V views (3, s, s).
        """
        sample, picture = decode_or_substitute(self.pictures, sample, self._quarantine)
        height, width = picture.shape[:2]
        alone = DecodedBatch(
            [picture], np.array([height]), np.array([width]), self.pictures.labels[[sample]], np.array([sample])
        )
        return picture, [view[0] for view in self._engine(alone, self._order.seed, epoch)]

    def close(self) -> None:
        """Ends the worker threads."""
        self._source.close()
        self._engine.close()

    def _produce(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        # A rank may have no share of an evaluation's last batch.
        id_batches = [ids for ids in self._order.batches(epoch, start_batch) if len(ids)]
        for decoded in self._source.batches(id_batches):
            views = self._engine(decoded, self._order.seed, epoch)
            views = [view.to(self._device, non_blocking=True) for view in views]
            yield Batch(views, torch.from_numpy(decoded.labels), torch.from_numpy(decoded.ids))


class _Ahead:
    """Runs an iterator in a thread, a bounded number of items ahead; its exceptions are raised here."""

    def __init__(self, items: Iterator[Batch]) -> None:
        self._items = items
        self._queue: queue.Queue = queue.Queue(_BATCHES_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item, error = self._queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item

    def stop(self) -> None:
        """Ends the thread, also in the middle."""
        self._stopped.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.05)

    def _run(self) -> None:
        try:
            for item in self._items:
                self._queue.put((item, None))
                if self._stopped.is_set():
                    self._items.close()
                    return
            self._queue.put((None, None))
        except BaseException as error:  # handed to the consumer, whatever it is
            self._queue.put((None, error))

    def _drain(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
