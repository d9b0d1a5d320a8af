"""The crops of a batch by Triton kernels: one table over the bus, four launches whatever the number of views.

For 256 images of 500 x 375 and crops of 224, 224, 192, 160, 128 and 96 pixels: bytes through memory, and instructions
of warps, counted in ptxas's code for sm_90 and weighted by how often the default recipe runs each part.

==============================================  ===========  ============
launch                                          10**6 bytes  10**6 issues
==============================================  ===========  ============
weights: half precision, written                         58            41
resize: boxes and weights read, levels written          638           413
colour: levels read, 16-bit views or work written       434           190
blur: half of the work read, 16-bit views written       284           173
==============================================  ===========  ============

An H100 moves 1414 MB in 0.5 ms and issues 817 million instructions in 0.9 ms: at a third of its rates it stays under
3 ms. The table of the batch is 0.54 MB, 0.02 ms on the bus. Resampling by direct sums would load nearly 4 times the
bytes from the caches, each in an instruction of its own; with the weights computed where they are used, and not once
for all tiles between two lines, the resize took twice the instructions.
"""

from __future__ import annotations

import numpy as np
import torch

from loaders.compiler import require_c_compiler
from loaders.multicrop import crop_table, kernels
from loaders.multicrop.draws import BLUR_SIGMA
from loaders.multicrop.windows import Windows
from loaders.sources.decoded import DecodedBatch
from loaders.upload import upload

_REACH = {"bicubic": 2, "bilinear": 1}  # of the filters, in pixels
# A crop starts at a multiple of 16 bytes whatever its size and type if batches are rounded up to this.
_SLOTS = 8
_ONE_WARP = {"num_warps": 1, "num_stages": 1, "maxnreg": 128}  # four warps for each of the SM's schedulers
_TWO_WARPS = {"num_warps": 2, "num_stages": 1}


class TritonCrops:
    """Cuts the crops of a batch.

    Args:
        sizes: sides of the V views.
        mode: ``"bicubic"`` or ``"bilinear"``.
        mean, std: mean and standard deviation of each channel, for the normalisation.
        device: where the pixels lie and the views are made.
        dtype: number format of the views.

    Raises:
        UserError: Triton will find no C compiler, or not Python's headers.
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
        if device.type == "cuda":
            require_c_compiler()
        self._sizes, self._mode, self._device, self._dtype = sizes, mode, device, dtype
        self._strips = crop_table.strip_table(sizes)
        tiles = crop_table.tile_table(sizes)
        self._tile_count, most_tiles = len(tiles), int(tiles[:, crop_table.TILES].max())
        self._most_tiles = 1 << (most_tiles - 1).bit_length()
        scale = 1 / np.array(std)
        normalise = np.concatenate([scale, -np.array(mean) * scale]).astype(np.float32)
        self._tiles, self._strips_there, self._normalise = (
            torch.from_numpy(array).to(device) for array in (tiles, self._strips, normalise)
        )

    def __call__(self, decoded: DecodedBatch, y: Windows, x: Windows, draws: np.ndarray) -> list[torch.Tensor]:
        """Launches the kernels on the current stream, and waits for nothing.

        Args:
            decoded: B images on the device.
            y, x: the crops' windows, (B, V).
            draws: (B, V, COLUMNS), of which the columns of the box are not read.

        Returns:
            V views (B, 3, s, s), channels_last, in one allocation.
        """
        count, views = draws.shape[:2]
        slots = -(-count // _SLOTS) * _SLOTS
        taps, weights = crop_table.taps(self._strips, y, x, _REACH[self._mode])
        tables = [crop_table.places(decoded, y, x), crop_table.numbers(y, x, draws), taps]
        places, numbers, taps = upload(tables, self._device)
        values = slots * 3 * sum(size * size for size in self._sizes)
        bands = self._empty(weights, torch.float16)
        levels, sums = self._empty(values, torch.uint8), self._empty(count * self._tile_count, torch.float32)
        out = self._empty(values, self._dtype)
        shape = (slots, views, self._tile_count)
        strips, programs = len(self._strips), (count * self._tile_count,)

        kernels.weights_kernel[(count * strips,)](
            numbers, taps, self._strips_there, bands, views, strips, CUBIC=self._mode == "bicubic", **_ONE_WARP
        )
        interleaved = bool((decoded.strides[:, 2] == 1).all())
        kernels.resize_kernel[programs](
            decoded.pixels, places, numbers, taps, bands, self._tiles, levels, sums, *shape, strips,
            INTERLEAVED=interleaved, **_ONE_WARP,
        )  # fmt: skip
        blur = bool((draws[:, :, BLUR_SIGMA] > 0).any())
        blurred = self._empty(values if blur else 1, torch.float16)
        kernels.colour_kernel[programs](
            levels, sums, numbers, self._tiles, self._normalise, blurred, out, *shape,
            MOST_TILES=self._most_tiles, **_TWO_WARPS,
        )  # fmt: skip
        if blur:
            kernels.blur_kernel[programs](blurred, numbers, self._tiles, self._normalise, out, *shape, **_ONE_WARP)
        return self._split(out, count, slots)

    def _empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=self._device)

    def _split(self, out: torch.Tensor, count: int, slots: int) -> list[torch.Tensor]:
        views, start = [], 0
        for size in self._sizes:
            values = size * size * 3
            views.append(out[start : start + count * values].view(count, size, size, 3).permute(0, 3, 1, 2))
            start += slots * values
        return views
