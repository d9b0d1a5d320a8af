"""Decodes with NVIDIA DALI: on the GPU's JPEG decoder where the crops are cut there, else on the CPU.

DALI is fed the encoded images of each batch, so that the order is ours. This is the one module that imports it.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.backend import TensorListCPU, TensorListGPU

from loaders.errors import UserError
from loaders.sources import HARDWARE_SHARE, Images
from loaders.sources.decoded import DecodedBatch, interleaved
from loaders.sources.jpeg_header import plain_jpeg
from loaders.sources.quarantine import Quarantine, decode_or_substitute

_BATCHES_AHEAD = 2
_INPUT = "encoded"


@dataclass
class _Read:
    """A batch on its way.

    Attributes:
        found: of each image its JPEG stream, uint8 (bytes,), for DALI; or its pixels, uint8 (H, W, 3).
        ids: of the images that these are.
    """

    found: list[np.ndarray | torch.Tensor]
    ids: np.ndarray

    @property
    def streams(self) -> list[np.ndarray]:
        return [item for item in self.found if isinstance(item, np.ndarray)]


class DaliSource:
    """DALI's decoder behind an external source.

    DALI fails a whole batch for one image that it cannot read. So only plain JPEGs go to it; anything else is decoded
    as the folder source does. A batch that fails all the same goes that way as a whole. What DALI decodes lies
    scattered; it is copied into one buffer of the batch's own size, and DALI gets its memory back.

    Args:
        images: the dataset.
        threads: DALI's threads.
        quarantine: where bad images go.
        device: where the decoded pixels are wanted.
        hardware_share: share of the images for the JPEG decoder that A100 and H100 have beside their cores.
    """

    def __init__(
        self,
        images: Images,
        threads: int,
        quarantine: Quarantine,
        device: torch.device,
        hardware_share: float = HARDWARE_SHARE,
    ) -> None:
        self._images, self._threads, self._quarantine, self._device = images, threads, quarantine, device
        self._hardware_share = hardware_share
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._pipeline: Pipeline | None = None
        self._largest_batch = 0

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given."""
        if not id_batches:
            return
        self._largest_batch = max(self._largest_batch, max(len(ids) for ids in id_batches))
        if self._pipeline is None or self._pipeline.max_batch_size < self._largest_batch:
            self._pipeline = self._build()
        waiting, under_way = deque(id_batches), deque()
        try:
            while waiting or under_way:
                while waiting and len(under_way) < _BATCHES_AHEAD:
                    under_way.append(self._read(waiting.popleft(), self._read_one))
                    self._feed(under_way[-1])
                yield self._collect(under_way)
        finally:
            if waiting or under_way:  # left early: what DALI still holds belongs to no later pass
                self._pipeline = None

    def close(self) -> None:
        self._pipeline = None
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _build(self) -> Pipeline:
        on_gpu = self._device.type == "cuda"
        try:
            pipeline = Pipeline(
                batch_size=self._largest_batch,
                num_threads=self._threads,
                device_id=torch.cuda.current_device() if on_gpu else None,
                prefetch_queue_depth=1,  # we schedule ahead ourselves: a deeper queue runs before it is fed
                exec_dynamic=True,
            )
            with pipeline:
                encoded = fn.external_source(name=_INPUT, device="cpu")
                decoded = fn.decoders.image(
                    encoded,
                    device="mixed" if on_gpu else "cpu",
                    output_type=types.RGB,
                    adjust_orientation=False,  # no other decoder here looks at EXIF
                    jpeg_fancy_upsampling=True,  # as libjpeg-turbo
                    hw_decoder_load=self._hardware_share,
                )
                pipeline.set_outputs(decoded)
            pipeline.build()
        except RuntimeError as error:
            raise UserError(
                f"DALI does not start: {' '.join(str(error).split())[:300]}; its build (cuda110, cuda120 or cuda130) "
                "must fit the driver; data.source=ffcv or data.source=folder does without it"
            ) from error
        return pipeline

    def _read(self, ids: np.ndarray, read: Callable[[int], tuple[int, np.ndarray | torch.Tensor]]) -> _Read:
        stand_ins, found = zip(*self._readers.map(read, ids.tolist()), strict=True)
        return _Read(list(found), np.array(stand_ins, dtype=np.int64))

    def _read_one(self, sample: int) -> tuple[int, np.ndarray | torch.Tensor]:
        jpeg = plain_jpeg(self._images, sample)
        return (sample, jpeg[0]) if jpeg else self._decode_one(sample)

    def _decode_one(self, sample: int) -> tuple[int, torch.Tensor]:
        return decode_or_substitute(self._images, sample, self._quarantine)

    def _feed(self, batch: _Read) -> None:
        if streams := batch.streams:
            self._pipeline.feed_input(_INPUT, streams)
            self._pipeline.schedule_run()

    def _collect(self, under_way: deque[_Read]) -> DecodedBatch:
        """Takes the oldest batch."""
        decoded: TensorListCPU | TensorListGPU | None = None
        if under_way[0].streams:
            try:
                (decoded,) = self._pipeline.share_outputs()
            except RuntimeError:  # decode it the careful way
                under_way[0] = self._read(under_way[0].ids, self._decode_one)
                self._pipeline = self._build()  # after an error the old one is not to be trusted
                for batch in under_way:
                    self._feed(batch)
        batch = self._pack(under_way.popleft(), decoded)
        if decoded is not None:
            del decoded
            self._pipeline.release_outputs()
        return batch

    def _pack(self, batch: _Read, decoded: TensorListCPU | TensorListGPU | None) -> DecodedBatch:
        """Copies a batch into one buffer: DALI's images first, those that were decoded here behind them."""
        by_dali = np.array([isinstance(item, np.ndarray) for item in batch.found])
        order = np.argsort(~by_dali, kind="stable")
        here = [batch.found[i] for i in order if not by_dali[i]]
        shapes = [*(decoded.shape() if decoded is not None else ()), *(image.shape for image in here)]
        heights, widths, offsets = (np.empty(len(order), dtype=np.int64) for _ in range(3))
        heights[order], widths[order], _ = np.array(shapes, dtype=np.int64).T
        ends = np.cumsum((heights * widths * 3)[order])
        offsets[order] = ends - (heights * widths * 3)[order]
        pixels = torch.empty(int(ends[-1]), dtype=torch.uint8, device=self._device)
        if decoded is not None:
            _copy(decoded, pixels)
        for image, end in zip(here, ends[len(order) - len(here) :].tolist(), strict=True):
            pixels[end - image.numel() : end].copy_(image.reshape(-1))
        labels = self._images.labels[batch.ids]
        return DecodedBatch(pixels, offsets, interleaved(widths), heights, widths, labels, batch.ids)


def _copy(decoded: TensorListCPU | TensorListGPU, pixels: torch.Tensor) -> None:
    """Copies all images, one behind the other, to the start of ``pixels``; waits until that is done."""
    start = ctypes.c_void_p(pixels.data_ptr())
    if isinstance(decoded, TensorListGPU):
        stream = ctypes.c_void_p(torch.cuda.current_stream(pixels.device).cuda_stream)
        decoded.copy_to_external(start, stream, non_blocking=False, use_copy_kernel=True)
    else:
        decoded.copy_to_external(start)
