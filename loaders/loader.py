"""``make_loader``: source, draws and engine behind one iterator with a position."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch

from loaders.datasets.own import OwnImages
from loaders.errors import UserError
from loaders.multicrop.cpu import CpuCenterCrop, CpuMultiCrop
from loaders.multicrop.engine import Engine
from loaders.multicrop.growing import GrowingCrops
from loaders.order import Order
from loaders.recipe import CenterCrop, MultiCrop
from loaders.sources import HARDWARE_SHARE, Images, Source, opened_images
from loaders.sources.choice import open_source
from loaders.sources.decoded import DecodedBatch, packed
from loaders.sources.quarantine import Quarantine, decode_or_substitute

_BATCHES_AHEAD = 3
_Item = TypeVar("_Item")


@dataclass
class Batch:
    """One rank's share of a batch; ``views, labels, ids = batch`` unpacks it.

    Attributes:
        views: V tensors (B / W, 3, s, s), normalised, channels_last.
        labels: (B / W,) int64 class indices, -1 where unknown.
        ids: (B / W,) int64 sample ids.
    """

    views: list[torch.Tensor]
    labels: torch.Tensor
    ids: torch.Tensor

    def __iter__(self) -> Iterator[Any]:
        return iter((self.views, self.labels, self.ids))


def make_loader(
    data: str | Path | Images | OwnImages | Sequence[str | Path] | Sequence[tuple[str | Path, int]],
    recipe: MultiCrop | CenterCrop,
    batch_size: int,
    *,
    source: str = "auto",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    epoch: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 0,
    hardware_share: float = HARDWARE_SHARE,
    samples: Sequence[int] | None = None,
    max_bad: float = 0.05,
    quarantine: str | Path | None = None,
) -> Loader:
    """Opens a dataset as a loader.

    With a ``MultiCrop`` recipe it shuffles, drops the last incomplete batch and draws random crops, all a pure
    function of (seed, epoch, sample, view). With a ``CenterCrop`` it keeps the file's order and every sample.

    Args:
        data: what ``loaders.sources.open_images`` takes (a ``.beton`` file, a folder, tars, …) or has opened; a list
            of files or of ``(file, label)``; or an object of one's own, see ``loaders.datasets.own.OwnImages``.
        recipe: the views to cut from each image.
        batch_size: images in a batch, over all ranks.
        source: decoder, one of ``loaders.sources.choice.SOURCES``; ``"auto"`` takes the fastest that can run and gives
            the same pixels as on a CPU, up to rounding.
        device: where the views are made and stay.
        dtype: number format of the views.
        seed: seed of the order of the samples and of the crops.
        epoch, start_batch: position of the first batch.
        rank, world_size: this process's number and how many processes share every batch.
        threads: host threads; 0 takes one for each core that this process may use.
        hardware_share: share of the images for the JPEG decoder that some GPUs have, when DALI decodes on the GPU.
        samples: ids of the samples to use; None uses all.
        max_bad: share of the images that may fail to decode; past it iterating raises ``UserError`` with the list.
        quarantine: file in which the images that failed are listed.

    Raises:
        UserError: bad data, an unknown source, or a batch that the ranks cannot share.
    """
    images, device = opened_images(data), torch.device(device)
    if device.type == "cuda" and device.index is None:  # so that it equals the device of what lies on it
        device = torch.device("cuda", torch.cuda.current_device())
    threads = threads or len(os.sched_getaffinity(0))
    quarantine = Quarantine(images.path, len(images), max_bad, Path(quarantine) if quarantine else None)
    samples = None if samples is None else np.asarray(samples)
    order = Order(
        np.arange(len(images)) if samples is None else samples,
        batch_size,
        shuffled=isinstance(recipe, MultiCrop),
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    opened, explanation = open_source(images, source, threads, quarantine, device, hardware_share, samples)
    engine = open_engine(recipe, device, dtype, threads)
    loader = Loader(images, quarantine, opened, explanation, engine, order, device)
    loader.set_position(epoch, start_batch)
    return loader


def open_engine(recipe: MultiCrop | CenterCrop, device: torch.device, dtype: torch.dtype, threads: int) -> Engine:
    """The engine for a recipe whose views are wanted on ``device``."""
    random = isinstance(recipe, MultiCrop)
    if random and recipe.growth is not None:
        return GrowingCrops(recipe, lambda fixed: open_engine(fixed, device, dtype, threads))
    if device.type == "cpu":
        return (CpuMultiCrop if random else CpuCenterCrop)(recipe, threads, dtype)
    from loaders.multicrop.device import DeviceCenterCrop, DeviceMultiCrop

    return (DeviceMultiCrop if random else DeviceCenterCrop)(recipe, device, dtype)


class Loader:
    """Iterating yields the batches from the position to the end of its epoch and moves on to the next epoch.

    Its only state is the position, so setting it resumes exactly, at any world size and from any source.

    Attributes:
        images: the dataset: ``len``, ``labels``, ``names``, ``classes``.
        batch_size: images in a batch, over all ranks.
        source: a few words on which decoder was chosen, and why.
    """

    def __init__(
        self,
        images: Images,
        quarantine: Quarantine,
        source: Source,
        explanation: str,
        engine: Engine,
        order: Order,
        device: torch.device,
    ) -> None:
        self.images, self.batch_size, self.source = images, order.batch_size, explanation
        self._quarantine, self._source, self._engine = quarantine, source, engine
        self._order, self._device = order, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._cutting = Lock()  # an engine cuts one batch at a time, and ``crops`` may be called amid an epoch
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def set_position(self, epoch: int, batch: int) -> None:
        """The next iteration starts at this batch of this epoch."""
        if not 0 <= batch <= len(self):
            raise UserError(f"batch {batch} is not within the epoch's {len(self)} batches")
        self._epoch, self._batch = epoch, batch

    def state_dict(self) -> dict[str, int]:
        """The position as plain numbers, for a checkpoint of one's own: the batches given so far count as done."""
        return {"epoch": self._epoch, "batch": self._batch, **self._meaning()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next iteration goes on behind the batches that were done when ``state`` was taken.

        Raises:
            UserError: it is the state of a loader of another dataset, seed or batch size, where it means others.
        """
        for name, value in self._meaning().items():
            if state[name] != value:
                raise UserError(
                    f"the loader's state is of another {name.replace('_', ' ')}, {state[name]}, not {value}: make the "
                    "loader as that one was, or begin anew"
                )
        self.set_position(state["epoch"], state["batch"])

    def _meaning(self) -> dict[str, int]:
        """What a position depends on, beside epoch and batch."""
        return {"number_of_images": len(self._order.samples), "batch_size": self.batch_size, "seed": self._order.seed}

    def __iter__(self) -> Iterator[Batch]:
        produced = _ahead(self._produce(self._epoch, self._batch), _BATCHES_AHEAD)
        try:
            for batch, ready in produced:
                self._batch += 1
                if ready is not None:
                    _hand_over(batch.views, ready)
                yield batch
        finally:
            produced.close()
        self._epoch, self._batch = self._epoch + 1, 0

    def crops(self, sample: int, epoch: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One sample, whole and as an epoch crops it (up to the rounding of the decoder); for looking at, at any time.

        Returns:
            The image, uint8 (H, W, 3), and its V views (3, s, s).
        """
        sample, image = decode_or_substitute(self.images, sample, self._quarantine)
        alone = packed([image], self.images.labels[[sample]], np.array([sample]))
        with torch.cuda.stream(self._stream):
            views, ready = self._cut(alone, epoch)
        if ready is not None:
            _hand_over(views, ready)
        return image, [view[0] for view in views]

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker threads."""
        self._source.close()
        self._engine.close()

    def _produce(self, epoch: int, start_batch: int) -> Iterator[tuple[Batch, torch.cuda.Event | None]]:
        # A rank may have no share of an evaluation's last batch.
        id_batches = [ids for ids in self._order.batches(epoch, start_batch) if len(ids)]
        with torch.cuda.stream(self._stream):  # without a GPU the stream is None, and nothing happens
            for decoded in self._source.batches(id_batches):
                views, ready = self._cut(decoded, epoch)
                yield Batch(views, torch.from_numpy(decoded.labels), torch.from_numpy(decoded.ids)), ready

    def _cut(self, decoded: DecodedBatch, epoch: int) -> tuple[list[torch.Tensor], torch.cuda.Event | None]:
        """The views of a batch and, on a GPU, the event at which they are ready."""
        with self._cutting:
            if self._stream is None:
                return self._engine(decoded, self._order.seed, epoch), None
            there = decoded.to(self._device)
            copied = self._stream.record_event()
            views = self._engine(there, self._order.seed, epoch)
            ready = self._stream.record_event()
            # The source writes its next batch where this one lies: wait until it has been read.
            (ready if there is decoded else copied).synchronize()
            return views, ready


def _hand_over(views: list[torch.Tensor], ready: torch.cuda.Event) -> None:
    """Lets the current stream use tensors that another one made."""
    stream = torch.cuda.current_stream(views[0].device)
    stream.wait_event(ready)
    for view in views:
        view.record_stream(stream)


def _ahead(items: Iterator[_Item], count: int) -> Iterator[_Item]:
    """Runs an iterator in a thread, ``count`` items ahead; its exceptions are raised here."""
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:  # also where the caller leaves early
            for future in waiting:
                future.cancel()
            with suppress(RuntimeError):  # at the end of the program the thread takes nothing more
                thread.submit(items.close)
