"""Images through the transform that a program of the authors' builds, and what it draws for each view."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.ImageFilter
import PIL.ImageOps
import torch
import torchvision.transforms as transforms
import torchvision.transforms.functional as functional

from loaders.multicrop import draws
from tools.fidelity.pixels import pixel_statistics
from tools.fidelity.theirs import programs, stand_ins

_ORDERS = {tuple(order): number for number, order in enumerate(draws.JITTER_ORDERS.tolist())}


def view(job: dict[str, Any]) -> dict[str, Any]:
    """Cuts the views of images, once for each seed.

    Args:
        job: ``script`` and ``arguments``; ``images``, uint8 tensors (H, W, 3); ``seeds``.

    Returns:
        ``seeds``: for each the ``draws`` (n, V, COLUMNS), in the columns of our own table, and ``pixel_statistics``
        of every view.
    """
    stand_ins.Images.train = [image.numpy() for image in job["images"]], [0] * len(job["images"])
    stand_ins.install()
    recorder = _Recorder()
    dataset = _dataset(job["script"], job["arguments"])
    found = []
    for seed in job["seeds"]:
        random.seed(seed)
        torch.manual_seed(seed)
        views: list[list[torch.Tensor]] = []
        for index in range(len(dataset)):
            views.append(list(dataset[index][0]))
        table = np.array(recorder.take()).reshape(len(dataset), -1, draws.COLUMNS)
        statistics = [pixel_statistics(torch.stack(one).permute(0, 2, 3, 1)) for one in zip(*views, strict=True)]
        found.append({"draws": torch.from_numpy(table), "pixels": statistics})
    return {"seeds": found}


class _DatasetReached(Exception):
    """Ends a program where it opens its loader; its argument is the dataset."""


def _dataset(script: str, arguments: list[str]) -> torch.utils.data.Dataset:
    """The training set as a program opens it."""

    def stop(dataset: torch.utils.data.Dataset, **options: Any) -> None:
        raise _DatasetReached(dataset)

    torch.utils.data.DataLoader = stop
    program = programs.load(script)
    program.get_method = lambda name: lambda cfg: programs.Tiny()
    try:
        programs.run(program, arguments)
    except _DatasetReached as reached:
        return reached.args[0]
    raise RuntimeError(f"{script} has opened no loader")


class _Recorder:
    """Writes down what torchvision and Pillow are asked to do to each view, a row of our table of draws for each.

    A view ends where it would be normalised, which it is not, so that its values stay grey levels by 255.
    """

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self._begin()
        crop, jitter = transforms.RandomResizedCrop.get_params, transforms.ColorJitter.get_params
        transforms.RandomResizedCrop.get_params = staticmethod(lambda *given: self._box(crop(*given)))
        transforms.ColorJitter.get_params = staticmethod(lambda *given: self._factors(jitter(*given)))
        transforms.Normalize.forward = lambda normalize, image: self._end(image)
        functional.hflip = self._noting(functional.hflip, draws.FLIP)
        functional.rgb_to_grayscale = self._noting(functional.rgb_to_grayscale, draws.GRAYSCALE)
        PIL.ImageOps.solarize = self._noting(PIL.ImageOps.solarize, draws.SOLARIZE)
        PIL.ImageFilter.GaussianBlur = self._blur(PIL.ImageFilter.GaussianBlur)

    def take(self) -> list[np.ndarray]:
        """The rows so far, which are forgotten."""
        rows, self.rows = self.rows, []
        return rows

    def _begin(self) -> None:
        self._row = np.zeros(draws.COLUMNS)
        self._row[draws.JITTER_ORDER] = -1

    def _end(self, image: torch.Tensor) -> torch.Tensor:
        self.rows.append(self._row)
        self._begin()
        return image

    def _box(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        self._row[draws.TOP : draws.WIDTH + 1] = box
        return box

    def _factors(self, drawn: tuple) -> tuple:
        order, *factors = drawn
        self._row[draws.JITTER_ORDER] = _ORDERS[tuple(order.tolist())]
        self._row[draws.BRIGHTNESS : draws.HUE + 1] = factors
        return drawn

    def _noting(self, function: Callable, column: int) -> Callable:
        def noted(*given: Any, **options: Any) -> Any:
            self._row[column] = 1
            return function(*given, **options)

        return noted

    def _blur(self, filter_of: Callable) -> Callable:
        def noted(radius: float) -> Any:
            self._row[draws.BLUR_SIGMA] = radius
            return filter_of(radius)

        return noted
