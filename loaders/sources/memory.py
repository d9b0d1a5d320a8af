"""A dataset decoded once and kept in memory, on the GPU where the crops are cut there: batches cost no host work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from loaders.environment import free_bytes
from loaders.errors import UserError
from loaders.sources import Images
from loaders.sources.decoded import DecodedBatch, interleaved
from loaders.sources.quarantine import Quarantine, decode_or_substitute

# A dataset may take this share of the free memory. While it is put together its pixels are there twice.
SHARE = 0.45
_CHUNK = 1024  # images decoded before they are copied to the device


class MemorySource:
    """Keeps all images as uint8 and points into them.

    Args:
        images: the dataset; all of it is decoded here.
        threads: decoder threads.
        quarantine: where bad images go; a neighbour's pixels stand in for theirs.
        device: where the pixels are kept.

    Raises:
        UserError: the pixels do not fit the device's memory, or too many images are bad.
    """

    def __init__(self, images: Images, threads: int, quarantine: Quarantine, device: torch.device) -> None:
        self._labels = images.labels
        self._ids = np.empty(len(images), dtype=np.int64)  # of the images that stand in
        self._heights, self._widths = np.empty_like(self._ids), np.empty_like(self._ids)
        if images.decoded_bytes is not None:
            _check_fit(images, images.decoded_bytes, device)
        chunks: list[torch.Tensor] = []
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            for start in range(0, len(images), _CHUNK):
                samples = range(start, min(start + _CHUNK, len(images)))
                decoded = list(pool.map(lambda i: decode_or_substitute(images, i, quarantine), samples))
                chunks.append(torch.cat([image.reshape(-1) for _, image in decoded]).to(device))
                for i, (stand_in, image) in zip(samples, decoded, strict=True):
                    self._ids[i], self._heights[i], self._widths[i] = stand_in, *image.shape[:2]
                if start == 0:  # of images of unknown size the first ones tell
                    _check_fit(images, len(chunks[0]) * len(images) // len(samples), device)
        self._pixels = torch.cat(chunks)
        sizes = self._heights * self._widths * 3
        self._offsets = np.cumsum(sizes) - sizes

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given; nothing is copied."""
        for ids in id_batches:
            stand_ins = self._ids[ids]
            yield DecodedBatch(
                pixels=self._pixels,
                offsets=self._offsets[ids],
                strides=interleaved(self._widths[ids]),
                heights=self._heights[ids],
                widths=self._widths[ids],
                labels=self._labels[stand_ins],
                ids=stand_ins,
            )

    def close(self) -> None:
        self._pixels = torch.empty(0, dtype=torch.uint8)


def _check_fit(images: Images, wanted: int, device: torch.device) -> None:
    free = free_bytes(device)
    if wanted > SHARE * free:
        raise UserError(
            f"the pixels of {images.path} take {wanted / 1e9:.1f} GB, too much for the {free / 1e9:.1f} GB free on "
            f"{device}: choose another source"
        )
