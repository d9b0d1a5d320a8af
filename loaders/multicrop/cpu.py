"""The engine on the CPU: threads over images, torch's uint8 antialiased resize, compiled colour."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn.functional import interpolate

from loaders.multicrop import background_compilation
from loaders.multicrop.blur import row_stride
from loaders.multicrop.buffer_pool import RecycledArrays
from loaders.multicrop.colour import colour_crop
from loaders.multicrop.draws import TOP, WIDTH, draw
from loaders.recipe import CenterCrop, MultiCrop
from loaders.sources.decoded import DecodedBatch


class CpuMultiCrop:
    """Cuts the crops of a batch.

    Args:
        recipe: the views' numbers.
        threads: worker threads; resize and colour release the interpreter's lock.
        dtype: number format of the views.
    """

    def __init__(self, recipe: MultiCrop, threads: int, dtype: torch.dtype = torch.float32) -> None:
        self.recipe, self._dtype = recipe, dtype
        self._sizes = [spec.size for spec in recipe.views]
        self._mean = np.array(recipe.mean, dtype=np.float32)
        self._std = np.array(recipe.std, dtype=np.float32)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crop")
        self._work_space = threading.local()
        self._memory = RecycledArrays()

    def __call__(self, decoded: DecodedBatch, seed: int, epoch: int) -> list[torch.Tensor]:
        """Cuts V normalised views of decoded images.

        Returns:
            V tensors (B, 3, s, s), channels_last.
        """
        background_compilation.wait()
        draws = draw(self.recipe, seed, epoch, decoded.ids, decoded.heights, decoded.widths)
        images = [image.numpy() for image in decoded.images]
        crops = [self._memory.take((len(images), size, size, 3)) for size in self._sizes]
        # One iterator for all threads: each takes the next crop when it is done with one, so they end together.
        # A task a crop would spend more on the pool's queue than a small crop takes.
        todo = itertools.product(range(len(images)), range(len(self._sizes)))
        # list(): an exception in a thread is raised here.
        list(self._pool.map(lambda _: self._crop_rest(images, draws, crops, todo), range(self._threads)))
        return [torch.from_numpy(view).permute(0, 3, 1, 2).to(self._dtype) for view in crops]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _crop_rest(
        self,
        images: list[np.ndarray],
        draws: np.ndarray,
        crops: list[np.ndarray],
        todo: Iterator[tuple[int, int]],
    ) -> None:
        planes, padded = self._buffers()
        for i, view in todo:
            size, row = self._sizes[view], draws[i, view]
            top, left, height, width = row[TOP : WIDTH + 1].astype(int).tolist()
            box = images[i][top : top + height, left : left + width]
            pixels = resize(box, (size, size), self.recipe.interpolation).reshape(3, -1)
            colour_crop(pixels, size, row, self._mean, self._std, planes, padded, crops[view][i].reshape(-1))

    def _buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """Each thread's own work space, large enough for any view: its planes, and one plane with a margin to blur."""
        if not hasattr(self._work_space, "buffers"):
            side = max(self._sizes)
            radius = max(math.ceil(3 * spec.blur_sigma[1]) for spec in self.recipe.views)
            lengths = 3 * side**2, (side + 2 * radius) * row_stride(side, radius)
            self._work_space.buffers = tuple(np.empty(length, dtype=np.float32) for length in lengths)
        return self._work_space.buffers


class CpuCenterCrop:
    """The evaluation view of a batch: see ``loaders.recipe.CenterCrop``."""

    def __init__(self, recipe: CenterCrop, threads: int, dtype: torch.dtype = torch.float32) -> None:
        self.recipe, self._dtype = recipe, dtype
        self._mean, self._std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crop")

    def __call__(self, decoded: DecodedBatch, seed: int, epoch: int) -> list[torch.Tensor]:
        """Returns one view (B, 3, size, size), channels_last, normalised; nothing about it is random."""
        size = self.recipe.size
        crops = torch.empty((len(decoded.ids), size, size, 3))
        list(self._pool.map(self._crop, decoded.images, crops))
        return [crops.permute(0, 3, 1, 2).to(self._dtype)]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _crop(self, image: torch.Tensor, out: torch.Tensor) -> None:
        height, width = image.shape[:2]
        short, size = self.recipe.resize, self.recipe.size
        target = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        pixels = torch.from_numpy(resize(image.numpy(), target, self.recipe.interpolation))
        # torchvision's rounding of the centre.
        top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
        square = pixels[:, top : top + size, left : left + size]
        out.copy_(square.permute(1, 2, 0)).div_(255).sub_(self._mean).div_(self._std)


def resize(image: np.ndarray, target: tuple[int, int], mode: str) -> np.ndarray:
    """Antialiased resize of uint8 (H, W, 3) to contiguous uint8 (3, h, w)."""
    # torch's vectorised kernel takes contiguous images only: copying a box into one is three times faster. NumPy
    # copies it in this thread, where torch would start a team of threads. The axes are turned in NumPy too: every
    # operation of torch lets go of the interpreter's lock, and getting it back takes longer than these.
    whole = torch.from_numpy(np.ascontiguousarray(image).transpose(2, 0, 1)[None])
    resized = interpolate(whole, size=target, mode=mode, antialias=True).numpy()[0]
    return np.ascontiguousarray(resized)  # which it is already in torch 2.11 and later
