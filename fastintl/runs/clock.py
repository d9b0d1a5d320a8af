"""How fast a run is, and its progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from loaders.progress import ProgressDisplay


class Clock:
    """Time spent training, and the images and the waiting in it. It runs inside ``with``, so not in evaluations.

    The first step after a start compiles and warms up: ``total`` has it, the throughput leaves it out.

    Attributes:
        total: seconds so far, over all restarts.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._steady_seconds, self._steady_images = 0.0, 0
        self._seconds, self._images, self._waited = 0.0, 0, 0.0

    def __enter__(self) -> Clock:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc_info) -> None:
        self._advance()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it the clock stands still."""
        self._advance()
        try:
            yield
        finally:
            self._start = time.perf_counter()

    def count(self, images: int, waited: float) -> None:
        """Adds a step: its images over all ranks, and the seconds it waited for them."""
        self._images += images
        self._waited += waited

    def first_step(self) -> float:
        """Ends the first step; returns its seconds."""
        self._advance()
        seconds = self._seconds
        self._seconds, self._images, self._waited = 0.0, 0, 0.0
        return seconds

    def read(self) -> dict[str, float]:
        """Images per second and the share of the time spent waiting, since the last reading; empty without steps."""
        self._advance()
        if not self._images:
            return {}
        seconds = max(self._seconds, 1e-9)
        reading = {"images_per_second": self._images / seconds, "data_wait": self._waited / seconds}
        self._steady_seconds += seconds
        self._steady_images += self._images
        self._seconds, self._images, self._waited = 0.0, 0, 0.0
        return reading

    @property
    def images_per_second(self) -> float | None:
        """Throughput of the whole run, without first steps; None if there were no others."""
        return self._steady_images / self._steady_seconds if self._steady_images else None

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"total": self.total, "seconds": self._steady_seconds, "pictures": self._steady_images}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continues an earlier run's times."""
        self.total, self._steady_seconds, self._steady_images = state["total"], state["seconds"], state["pictures"]

    def _advance(self) -> None:
        now = time.perf_counter()
        self.total += now - self._start
        self._seconds += now - self._start
        self._start = now


def gpu_memory(device: torch.device) -> dict[str, int]:
    """The most GPU memory that tensors have taken so far, in bytes; empty on a CPU."""
    return {"peak_gpu_memory": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


class TrainingProgress(ProgressDisplay):
    """A bar on a terminal, elsewhere a line now and then; on stderr.

    Args:
        total: steps of the run.
        step: steps done before.
        shown: False on all ranks but the first.
    """

    def __init__(self, total: int, step: int, shown: bool) -> None:
        super().__init__(total, step, text="training", shown=shown)
        self._told = False  # the first update is told at once

    def update(self, step: int, epoch: int, metrics: dict[str, Any], seconds_left: float | None) -> None:
        """Shows the newest metrics of a log step; None where the time left is not known yet."""
        text = _sentence(epoch, metrics)
        left = "" if seconds_left is None else f"  {seconds_left / 60:.1f} min left"
        line = f"step {step}/{self.total}  {text}{left}"
        self.show(step, text, line, at_once=step == self.total or not self._told)
        self._told = True

    def tell(self, step: int, text: str) -> None:
        """Shows how far something beside the training is, such as an evaluation."""
        self.show(step, text, text)


def _sentence(epoch: int, metrics: dict[str, Any]) -> str:
    parts = [f"epoch {epoch}", f"loss {metrics['loss']:.4f}"]
    if "lr" in metrics:
        parts.append(f"lr {metrics['lr']:.4f}")
    if "images_per_second" in metrics:
        parts += [f"{metrics['images_per_second']:,.0f} images/s", f"data-wait {metrics['data_wait']:.0%}"]
    if "peak_gpu_memory" in metrics:
        parts.append(f"GPU {metrics['peak_gpu_memory'] / 2**30:.1f} GiB")
    return "  ".join(parts)
