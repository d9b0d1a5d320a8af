"""Decodes JPEG files on a GPU with nvJPEG, by torchvision."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from loaders.sources import Images
from loaders.sources.decoded import DecodedBatch
from loaders.sources.jpeg_header import plain_jpeg
from loaders.sources.quarantine import Quarantine, decode_or_substitute

# (id, an encoded JPEG (bytes,) or decoded pixels (3, H, W), both uint8 on the host)
_Read = tuple[int, torch.Tensor]


class NvjpegSource:
    """Reads files in threads, one batch ahead, and decodes a batch in one call.

    nvJPEG returns nothing of a batch in which one image fails. So it gets plain JPEGs only, and a batch that fails
    all the same is decoded on the host as a whole, as all other images are.

    Its pixels are not those of the other sources: where a JPEG stores colour at half the resolution, torchvision has
    nvJPEG repeat the stored values, and libjpeg-turbo interpolates between them ("fancy upsampling"). Of 400 ImageNet
    photographs 86 store it so (the others have it whole, or are grey). On these, libjpeg-turbo with and without
    interpolation differs by 0.58 grey levels on average over an image (1.9 in the image with most), single values by up
    to 68; in random 224-pixel crops by 0.31 (1.3), single values by up to 60. For comparison, the fast transform that
    FFCV asks for changes the same images by 0.98. What that does to a training is not measured.

    Args:
        images: the dataset.
        threads: reading threads.
        quarantine: where bad images go.
        device: where the pixels are wanted. On a CPU torchvision decodes with libjpeg-turbo; that is for tests.
    """

    def __init__(self, images: Images, threads: int, quarantine: Quarantine, device: torch.device) -> None:
        self._images, self._quarantine, self._device = images, quarantine, device
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given."""
        ahead = None
        for ids in id_batches:
            now, ahead = ahead, [self._pool.submit(self._read, sample) for sample in ids.tolist()]
            if now is not None:
                yield self._decode([future.result() for future in now])
        if ahead is not None:
            yield self._decode([future.result() for future in ahead])

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, sample: int) -> _Read:
        found = plain_jpeg(self._images, sample)
        # A copy: torch warns of memory that is only to be read.
        return (sample, torch.from_numpy(found[0].copy())) if found else self._decode_on_host(sample)

    def _decode_on_host(self, sample: int) -> _Read:
        sample, image = decode_or_substitute(self._images, sample, self._quarantine)
        return sample, image.permute(2, 0, 1).contiguous()

    def _decode(self, read: list[_Read]) -> DecodedBatch:
        try:
            images = self._decode_streams([data for _, data in read])
        except RuntimeError:
            read = list(self._pool.map(self._decode_on_host, [sample for sample, _ in read]))
            images = [data.to(self._device, non_blocking=True) for _, data in read]
        ids = np.array([sample for sample, _ in read], dtype=np.int64)
        heights, widths = (np.array([image.shape[axis] for image in images], dtype=np.int64) for axis in (1, 2))
        sizes = 3 * heights * widths
        return DecodedBatch(
            pixels=torch.cat([image.reshape(-1) for image in images]),
            offsets=np.cumsum(sizes) - sizes,
            strides=np.stack([widths, np.ones_like(widths), heights * widths], axis=1),  # one channel after another
            heights=heights,
            widths=widths,
            labels=self._images.labels[ids],
            ids=ids,
        )

    def _decode_streams(self, data: list[torch.Tensor]) -> list[torch.Tensor]:
        """(3, H, W) on the device of each JPEG; what is decoded already is copied there."""
        streams = [item for item in data if item.ndim == 1]
        decoded: list[torch.Tensor] = []
        if streams:
            with warnings.catch_warnings():
                # torchvision announces torchcodec's decoders in place of its own; the versions here have both.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", UserWarning)
                decoded = decode_jpeg(streams, ImageReadMode.RGB, self._device)
        rest = iter(decoded)
        return [next(rest) if item.ndim == 1 else item.to(self._device, non_blocking=True) for item in data]
