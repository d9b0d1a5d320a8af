"""A dataset decoded once and kept in memory, on the GPU where the crops are cut there: batches cost no host work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

import numpy as np
import torch

from loaders.environment import free_bytes
from loaders.errors import UserError
from loaders.image_reading import BadImage
from loaders.sources import Images
from loaders.sources.decoded import DecodedBatch, interleaved
from loaders.sources.quarantine import Quarantine, decode_or_substitute

# A dataset may take this share of the free memory. While it is put together its pixels are there twice.
SHARE = 0.45
_CHUNK = 1024  # images decoded before they are copied to the device
_PROBES = 16  # images that are compared, about, before a dataset of the same path is taken for the same

# The pixels that this process keeps, as long as a source uses them, by the dataset's path and the device.
_kept: WeakValueDictionary[tuple[str, torch.device], _Kept] = WeakValueDictionary()


class MemorySource:
    """Keeps images as uint8 and points into them. Sources of one dataset share what the first of them decoded.

    Args:
        images: the dataset.
        threads: decoder threads.
        quarantine: where bad images go; a neighbour's pixels stand in for theirs.
        device: where the pixels are kept.
        samples: ids of those that will be asked for, which are decoded here; None stands for all.

    Raises:
        UserError: the pixels do not fit the device's memory, or too many images are bad.
    """

    def __init__(
        self,
        images: Images,
        threads: int,
        quarantine: Quarantine,
        device: torch.device,
        samples: np.ndarray | None = None,
    ) -> None:
        samples = np.arange(len(images)) if samples is None else np.unique(samples)
        self._labels = images.labels
        key = os.path.abspath(images.path), device
        known = _kept.get(key)
        if known is not None and known.holds(images, samples):
            known.report(samples, quarantine)
            self._pixels = known
        else:
            self._pixels = _kept[key] = _Kept(images, samples, threads, quarantine, device)

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given; nothing is copied."""
        kept = self._pixels
        if kept.pixels.is_cuda and id_batches:  # lest its memory is used for something else while this stream reads it
            kept.pixels.record_stream(torch.cuda.current_stream(kept.pixels.device))
        for ids in id_batches:
            stand_ins = kept.ids[ids]
            yield DecodedBatch(
                pixels=kept.pixels,
                offsets=kept.offsets[ids],
                strides=interleaved(kept.widths[ids]),
                heights=kept.heights[ids],
                widths=kept.widths[ids],
                labels=self._labels[stand_ins],
                ids=stand_ins,
            )

    def close(self) -> None:
        self._pixels = None


class _Kept:
    """The decoded images of some of a dataset's samples.

    Attributes:
        pixels: uint8, on the device, one image behind the other.
        ids: (n,) int64, for each sample of the dataset the image that stands in; -1 where it is not kept.
        offsets, heights, widths: (n,) int64, of those images in ``pixels``.
    """

    def __init__(
        self, images: Images, samples: np.ndarray, threads: int, quarantine: Quarantine, device: torch.device
    ) -> None:
        self._images = images
        self.ids, self.heights, self.widths, self.offsets = np.full((4, len(images)), -1, dtype=np.int64)
        if images.decoded_bytes is not None:
            _check_fit(images, images.decoded_bytes * len(samples) // len(images), device)
        chunks: list[torch.Tensor] = []
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            for start in range(0, len(samples), _CHUNK):
                chunk = samples[start : start + _CHUNK].tolist()
                decoded = list(pool.map(lambda i: decode_or_substitute(images, i, quarantine), chunk))
                chunks.append(torch.cat([image.reshape(-1) for _, image in decoded]).to(device))
                for i, (stand_in, image) in zip(chunk, decoded, strict=True):
                    self.ids[i], self.heights[i], self.widths[i] = stand_in, *image.shape[:2]
                if start == 0:  # of images of unknown size the first ones tell
                    _check_fit(images, len(chunks[0]) * len(samples) // len(chunk), device)
        self.pixels = torch.cat(chunks)
        if device.type == "cuda":  # other streams will read them, which do not wait for this one
            torch.cuda.current_stream(device).synchronize()
        sizes = (self.heights * self.widths * 3)[samples]
        self.offsets[samples] = np.cumsum(sizes) - sizes

    def holds(self, images: Images, samples: np.ndarray) -> bool:
        """Whether these are all kept, and the dataset is still what was decoded, as far as a few images tell."""
        if not np.array_equal(images.labels, self._images.labels) or (self.ids[samples] < 0).any():
            return False
        good = samples[self.ids[samples] == samples]
        return all(self._is_current(images, i) for i in good[:: max(1, len(good) // _PROBES)].tolist())

    def _is_current(self, images: Images, sample: int) -> bool:
        kept = self.pixels[self.offsets[sample] :][: self.heights[sample] * self.widths[sample] * 3]
        try:
            return torch.equal(images.decode(sample).reshape(-1), kept.cpu())
        except BadImage:
            return False

    def report(self, samples: np.ndarray, quarantine: Quarantine) -> None:
        """Tells another quarantine of the bad images among these."""
        for sample in samples[self.ids[samples] != samples].tolist():
            decode_or_substitute(self._images, sample, quarantine)


def _check_fit(images: Images, wanted: int, device: torch.device) -> None:
    free = free_bytes(device)
    if wanted > SHARE * free:
        raise UserError(
            f"the pixels of {images.path} take {wanted / 1e9:.1f} GB, too much for the {free / 1e9:.1f} GB free on "
            f"{device}: choose another source"
        )
