"""What a source hands to an engine: the decoded images of a batch in one buffer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch


@dataclass
class DecodedBatch:
    """Decoded images of a batch, of any sizes, in one buffer.

    Attributes:
        pixels: uint8 (bytes,), on the source's device, valid until the source's next batch. It may hold more than
            the batch.
        offsets: (B,) int64, where in ``pixels`` an image begins.
        strides: (B, 3) int64, bytes from an image's row, column and channel to the next.
        heights, widths: (B,) int64.
        labels: (B,) int64.
        ids: (B,) int64 sample ids; a bad image's id is that of the one that stands in for it.
    """

    pixels: torch.Tensor
    offsets: np.ndarray
    strides: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    @property
    def images(self) -> list[torch.Tensor]:
        """The B images, (H, W, 3) views of ``pixels``."""
        where = zip(
            self.heights.tolist(), self.widths.tolist(), self.strides.tolist(), self.offsets.tolist(), strict=True
        )
        return [self.pixels.as_strided((h, w, 3), stride, offset) for h, w, stride, offset in where]

    def to(self, device: torch.device) -> DecodedBatch:
        """The batch with its pixels on ``device``, copied without waiting; itself if they are there."""
        return self if self.pixels.device == device else replace(self, pixels=self.pixels.to(device, non_blocking=True))


def interleaved(widths: np.ndarray) -> np.ndarray:
    """Strides (B, 3) of images whose rows follow each other, ``widths`` pixels of RGB each."""
    return np.stack([3 * widths, np.full_like(widths, 3), np.ones_like(widths)], axis=1)


def packed(images: list[torch.Tensor], labels: np.ndarray, ids: np.ndarray) -> DecodedBatch:
    """A batch of separate (H, W, 3) images, copied one behind the other."""
    heights, widths = (np.array([image.shape[axis] for image in images], dtype=np.int64) for axis in (0, 1))
    sizes = heights * widths * 3
    pixels = torch.cat([image.reshape(-1) for image in images])
    return DecodedBatch(pixels, np.cumsum(sizes) - sizes, interleaved(widths), heights, widths, labels, ids)
