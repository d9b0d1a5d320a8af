"""The engine on a device: pixels that lie there in, crops out, by Triton kernels or by batched torch operations."""

from __future__ import annotations

import os
from importlib import import_module

import numpy as np
import torch

from loaders.errors import UserError
from loaders.multicrop.draws import COLUMNS, JITTER_ORDER, draw
from loaders.multicrop.windows import Windows, box_windows, centre_windows
from loaders.recipe import CenterCrop, MultiCrop
from loaders.sources.decoded import DecodedBatch

IMPLEMENTATIONS = ("triton", "batched")
_TRITON_FROM = (8, 0)  # compute capability: today's Triton compiles for no older GPU


def choose_implementation(device: torch.device) -> str:
    """``"triton"`` where its kernels can run on the device, else ``"batched"``."""
    if device.type == "cuda":
        able = torch.cuda.get_device_capability(device) >= _TRITON_FROM
    else:
        able = os.environ.get("TRITON_INTERPRET") == "1"  # on the CPU, slowly, for tests
    return "triton" if able and _has_triton() else "batched"


def _has_triton() -> bool:
    try:
        import_module("triton")
    except ImportError:
        return False
    return True


class _DeviceCrops:
    """What both engines share.

    Attributes:
        implementation: one of ``IMPLEMENTATIONS``.
    """

    def __init__(
        self,
        recipe: MultiCrop | CenterCrop,
        sizes: list[int],
        device: torch.device | str,
        dtype: torch.dtype,
        implementation: str | None,
    ) -> None:
        device = torch.device(device)
        self.recipe, self.implementation = recipe, implementation or choose_implementation(device)
        if self.implementation == "triton":
            from loaders.multicrop.triton_crops import TritonCrops as Crops
        elif self.implementation == "batched":
            from loaders.multicrop.batched import BatchedCrops as Crops
        else:
            raise UserError(f"no implementation is named {implementation!r}; there are {', '.join(IMPLEMENTATIONS)}")
        self._crops = Crops(sizes, recipe.interpolation, recipe.mean, recipe.std, device, dtype)

    def close(self) -> None:
        """Nothing is held; here because engines have it."""

    def _cut(self, decoded: DecodedBatch, y: Windows, x: Windows, draws: np.ndarray) -> list[torch.Tensor]:
        with torch.no_grad(), torch.cuda.device_of(decoded.pixels):
            return self._crops(decoded, y, x, draws)


class DeviceMultiCrop(_DeviceCrops):
    """Cuts the crops of a batch whose pixels lie on the device, on the current stream and without waiting.

    Args:
        recipe: the views' numbers.
        device: of the pixels and the views.
        dtype: of the views.
        implementation: one of ``IMPLEMENTATIONS``; None takes the fastest that the device can run.
    """

    def __init__(
        self,
        recipe: MultiCrop,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        implementation: str | None = None,
    ) -> None:
        self._sizes = [spec.size for spec in recipe.views]
        super().__init__(recipe, self._sizes, device, dtype, implementation)

    def __call__(self, decoded: DecodedBatch, seed: int, epoch: int) -> list[torch.Tensor]:
        """Cuts V normalised views (B, 3, s, s), channels_last, of decoded images."""
        draws = draw(self.recipe, seed, epoch, decoded.ids, decoded.heights, decoded.widths)
        return self._cut(decoded, *box_windows(draws, self._sizes), draws)


class DeviceCenterCrop(_DeviceCrops):
    """The evaluation view of a batch whose pixels lie on the device; arguments as for ``DeviceMultiCrop``."""

    def __init__(
        self,
        recipe: CenterCrop,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        implementation: str | None = None,
    ) -> None:
        super().__init__(recipe, [recipe.size], device, dtype, implementation)

    def __call__(self, decoded: DecodedBatch, seed: int, epoch: int) -> list[torch.Tensor]:
        """Returns one view (B, 3, size, size), channels_last, normalised; nothing about it is random."""
        plain = np.zeros((len(decoded.ids), 1, COLUMNS), dtype=np.float32)
        plain[:, :, JITTER_ORDER] = -1
        return self._cut(decoded, *centre_windows(self.recipe, decoded.heights, decoded.widths), plain)
