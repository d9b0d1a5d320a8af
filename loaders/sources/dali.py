"""Decodes with NVIDIA DALI: on the GPU's JPEG decoder where the crops are cut there, else on the CPU.

DALI is fed the encoded images of each batch, so that the order is ours. This is the one module that imports it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
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
class _Encoded:
    """A batch on its way through DALI: bytes that it can read, and what will come out."""

    streams: list[np.ndarray]
    heights: np.ndarray
    widths: np.ndarray
    ids: np.ndarray


class DaliSource:
    """DALI's decoder behind an external source.

    DALI fails a whole batch for one image that it cannot read. So only plain JPEGs go to it as they are; anything
    else is decoded as the folder source does and passes through DALI as a PPM, which keeps its pixels. A batch that
    fails all the same goes that way as a whole.

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
                    under_way.append(self._encode(waiting.popleft()))
                    self._feed(under_way[-1])
                try:
                    (padded,) = self._pipeline.share_outputs()
                except RuntimeError:
                    padded = self._decode_again(under_way)
                yield self._collect(under_way.popleft(), padded)
                self._pipeline.release_outputs()
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
                pipeline.set_outputs(fn.pad(decoded, fill_value=0))
            pipeline.build()
        except RuntimeError as error:
            raise UserError(
                f"DALI does not start: {' '.join(str(error).split())[:300]}; its build (cuda110, cuda120 or cuda130) "
                "must fit the driver; data.source=ffcv or data.source=folder does without it"
            ) from error
        return pipeline

    def _encode(self, ids: np.ndarray) -> _Encoded:
        return _collate(list(self._readers.map(self._encode_one, ids.tolist())))

    def _encode_one(self, sample: int) -> tuple[np.ndarray, int, int, int]:
        """Bytes that DALI reads, with height, width and the id of the image that they are."""
        found = plain_jpeg(self._images, sample)
        return (*found, sample) if found else self._encode_pixels(sample)

    def _encode_pixels(self, sample: int) -> tuple[np.ndarray, int, int, int]:
        sample, image = decode_or_substitute(self._images, sample, self._quarantine)
        height, width = image.shape[:2]
        header = np.frombuffer(b"P6 %d %d 255\n" % (width, height), dtype=np.uint8)
        return np.concatenate([header, image.numpy().reshape(-1)]), height, width, sample

    def _feed(self, batch: _Encoded) -> None:
        self._pipeline.feed_input(_INPUT, batch.streams)
        self._pipeline.schedule_run()

    def _decode_again(self, under_way: deque[_Encoded]) -> TensorListCPU | TensorListGPU:
        """Takes the oldest batch, which DALI failed on, the careful way."""
        under_way[0] = _collate(list(self._readers.map(self._encode_pixels, under_way[0].ids.tolist())))
        self._pipeline = self._build()  # after an error the old one is not to be trusted
        for batch in under_way:
            self._feed(batch)
        (padded,) = self._pipeline.share_outputs()
        return padded

    def _collect(self, batch: _Encoded, padded: TensorListCPU | TensorListGPU) -> DecodedBatch:
        pixels = torch.from_dlpack(padded.as_tensor())
        count, height, width, _ = pixels.shape
        return DecodedBatch(
            pixels=pixels.reshape(-1),
            offsets=np.arange(count) * (height * width * 3),
            strides=interleaved(np.full(count, width, dtype=np.int64)),
            heights=batch.heights,
            widths=batch.widths,
            labels=self._images.labels[batch.ids],
            ids=batch.ids,
        )


def _collate(samples: list[tuple[np.ndarray, int, int, int]]) -> _Encoded:
    streams, heights, widths, ids = zip(*samples, strict=True)
    return _Encoded(list(streams), *(np.array(column, dtype=np.int64) for column in (heights, widths, ids)))
