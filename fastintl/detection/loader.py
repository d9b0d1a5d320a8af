"""Batches of images with their objects, read ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastintl.detection.annotations import AnnotatedImage, AnnotatedSet
from fastintl.detection.augment import Target, read_pixels, training_view
from fastintl.detection.config import Views
from loaders.order import Order

_BATCHES_AHEAD = 3


class TrainingLoader:
    """Endless training batches from any step on: the batch of a step is a function of the seed and the step.

    Within a batch the images are sorted by aspect ratio, for a rank pads its images to a common size.

    Args:
        batch_size: images of all ranks together.
        rank, world_size: this rank gets its contiguous share of each batch.

    Raises:
        UserError: the batch cannot be shared evenly, or is larger than the set.
    """

    def __init__(
        self,
        annotated: AnnotatedSet,
        views: Views,
        masks: bool,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        threads: int,
    ) -> None:
        self._images, self._views, self._masks, self._seed = annotated.images, views, masks, seed
        self._rank, self._world_size = rank, world_size
        samples = np.arange(len(annotated))
        Order(samples, batch_size, True, seed, rank, world_size)  # refuses what cannot be shared
        self._order = Order(samples, batch_size, True, seed)
        self._aspect_ratio = np.array([image.width / image.height for image in annotated.images])
        self._pool = _pool(threads)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def batches(self, step: int = 0) -> Iterator[list[tuple[Tensor, Target]]]:
        """This rank's images and targets, from the batch of ``step`` on."""
        return _ahead(self._pool, self._view, self._work(step))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _work(self, step: int) -> Iterator[list[tuple[int, int]]]:
        epoch, batch = divmod(step, len(self))
        while True:
            for samples in self._order.batches(epoch, batch):
                samples = samples[np.argsort(self._aspect_ratio[samples], kind="stable")]
                yield [(epoch, int(i)) for i in np.array_split(samples, self._world_size)[self._rank]]
            epoch, batch = epoch + 1, 0

    def _view(self, work: tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, index = work
        return training_view(self._images[index], self._views, self._masks, self._seed, epoch, index)


def test_images(images: Sequence[AnnotatedImage], threads: int) -> Iterator[tuple[AnnotatedImage, Tensor]]:
    """The images one after the other, each with its pixels (3, H, W) uint8, read ahead."""
    pool = _pool(threads)
    try:
        for image, (pixels,) in zip(images, _ahead(pool, read_pixels, ([p] for p in images)), strict=True):
            yield image, pixels
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(threads: int) -> ThreadPoolExecutor:
    # torch's own threads would multiply with these
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def _ahead(pool: ThreadPoolExecutor, make: Callable[[Any], Any], work: Iterator[list]) -> Iterator[list]:
    """For each list of ``work`` the list of ``make(item)``, computed some lists ahead."""
    waiting: deque[list[Future]] = deque()
    try:
        for items in work:
            waiting.append([pool.submit(make, item) for item in items])
            if len(waiting) > _BATCHES_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        for futures in waiting:
            for future in futures:
                future.cancel()
