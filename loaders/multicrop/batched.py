"""The crops of a batch by torch's own operations, for GPUs that Triton does not compile for, and to check its kernels.

Resampling and blur are batched products of matrices: half precision on a GPU, where grey levels are exact and weights
err by less than a tenth of a level, float32 on the CPU. Images are taken some at a time, to bound the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from loaders.multicrop.batched_colour import colour, steps
from loaders.multicrop.draws import FLIP
from loaders.multicrop.windows import Windows
from loaders.sources.decoded import DecodedBatch
from loaders.upload import upload

_PIXELS_AT_ONCE = 2**23  # of the images, padded to the largest: 44 of 500 x 375


class BatchedCrops:
    """Cuts the crops of a batch.

    Args:
        sizes: sides of the V views.
        mode: ``"bicubic"`` or ``"bilinear"``.
        mean, std: mean and standard deviation of each channel, for the normalisation.
        device: where the pixels lie and the views are made.
        dtype: number format of the views.
    """

    def __init__(
        self,
        sizes: list[int],
        mode: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._sizes, self._mode, self._device, self._dtype = sizes, mode, device, dtype
        self._work = torch.float16 if device.type == "cuda" else torch.float32
        self._mean, self._std = (torch.tensor(numbers, device=device)[:, None, None] for numbers in (mean, std))

    def __call__(self, decoded: DecodedBatch, y: Windows, x: Windows, draws: np.ndarray) -> list[torch.Tensor]:
        """Queues the operations on the current stream, and waits for nothing.

        Args:
            decoded: B images on the device.
            y, x: the crops' windows, (B, V).
            draws: (B, V, COLUMNS), of which the columns of the box are not read.

        Returns:
            V views (B, 3, s, s), channels_last.
        """
        where = {"dtype": self._dtype, "device": self._device, "memory_format": torch.channels_last}
        views = [torch.empty((len(draws), 3, size, size), **where) for size in self._sizes]
        for some in _chunks(decoded.heights, decoded.widths):
            images = self._pad(decoded, some)
            for view, size in enumerate(self._sizes):
                drawn = draws[some, view]
                # Which samples an operation touches is known on the host: nothing waits for the device.
                operations, samples = steps(drawn)
                rows, columns = _numbers(y, some, view, 0 * drawn[:, FLIP]), _numbers(x, some, view, drawn[:, FLIP])
                rows, columns, drawn, *samples = upload([rows, columns, drawn, *samples], self._device)
                image = self._resize(images, rows, columns, size)
                colour(image, drawn, operations, samples)
                views[view][some] = ((image - self._mean) / self._std).to(self._dtype)
        return views

    def _pad(self, decoded: DecodedBatch, some: slice) -> torch.Tensor:
        """Images (n, H, 3, W), as levels; beyond their borders the outermost pixels are repeated."""
        heights, widths = decoded.heights[some], decoded.widths[some]
        numbers = [decoded.offsets[some], heights - 1, widths - 1, *decoded.strides[some].T]
        offset, bottom, right, row, column, channel = (a[:, None] for a in upload(numbers, self._device))
        y = torch.arange(int(heights.max()), device=self._device).minimum(bottom) * row
        x = torch.arange(int(widths.max()), device=self._device).minimum(right) * column
        where = (offset + y)[:, :, None] + x[:, None]
        channels = [decoded.pixels[where + i * channel[:, None]].to(self._work) for i in range(3)]
        return torch.stack(channels, dim=2)

    def _resize(self, images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, size: int) -> torch.Tensor:
        """Pillow's two passes, columns first, rounded after each: float32 (n, 3, size, size) in [0, 1]."""
        count, height, _, width = images.shape
        across, down = self._weights(columns, size, width), self._weights(rows, size, height)
        narrow = _to_levels(images.reshape(count, height * 3, width) @ across.transpose(1, 2))
        levels = _to_levels(down @ narrow.to(self._work).reshape(count, height, 3 * size))
        return levels.reshape(count, size, 3, size).transpose(1, 2) / 255

    def _weights(self, numbers: torch.Tensor, size: int, length: int) -> torch.Tensor:
        """Weights (n, size, length) of the pixels along an axis, zero outside the window; ``numbers``: _numbers."""
        first, origin, scale, low, high, flip = numbers[..., None, None]
        outputs = torch.arange(size, device=self._device, dtype=torch.float32)[:, None]
        outputs = torch.where(flip > 0, size - 1 - outputs, outputs)
        pixels = torch.arange(length, device=self._device) - first
        distance = ((pixels + 0.5) - (origin + (outputs + 0.5) * scale)).abs() / scale.clamp(min=1)
        weights = _cubic(distance) if self._mode == "bicubic" else (1 - distance).clamp(min=0)
        weights = torch.where((pixels >= low) & (pixels < high), weights, 0)
        return (weights / weights.sum(dim=2, keepdim=True)).to(self._work)


def _chunks(heights: np.ndarray, widths: np.ndarray) -> Iterator[slice]:
    """Consecutive samples that, padded to the largest of them, stay within ``_PIXELS_AT_ONCE``; at least one."""
    start, height, width = 0, 0, 0
    for i, (h, w) in enumerate(zip(heights.tolist(), widths.tolist(), strict=True)):
        height, width = max(height, h), max(width, w)
        if i > start and (i + 1 - start) * height * width > _PIXELS_AT_ONCE:
            yield slice(start, i)
            start, height, width = i, h, w
    yield slice(start, len(heights))


def _numbers(window: Windows, some: slice, view: int, flip: np.ndarray) -> np.ndarray:
    """First, origin, scale, low, high and flip of one view's windows: float32 (6, n)."""
    columns = (window.first, window.origin, window.scale, window.low, window.high)
    return np.stack([*(column[some, view] for column in columns), flip]).astype(np.float32)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


def _to_levels(values: torch.Tensor) -> torch.Tensor:
    return (values.float() + 0.5).floor().clamp(0, 255)
