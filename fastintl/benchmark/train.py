"""Times training end to end, loader included, beside the same step on views that lie ready."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastintl.benchmark.step import synchronize, synthetic_views
from fastintl.config import Config
from fastintl.data import training_loader
from fastintl.distributed import World
from fastintl.precision import autocast_dtype
from fastintl.training_step import TrainingStep
from loaders import Batch, Loader

_AHEAD = 4  # batches that the loader's queues may have filled while the other was timed


@dataclass
class EndToEnd:
    """What was measured, one value a round.

    Attributes:
        source: the decoder.
        images_per_second: with the loader, of all ranks.
        synthetic_images_per_second: of the step alone.
        data_wait: share of the time with the loader that the step waited for its batch.
        first_step_seconds: compilation included.
    """

    source: str = ""
    images_per_second: list[float] = field(default_factory=list)
    synthetic_images_per_second: list[float] = field(default_factory=list)
    data_wait: list[float] = field(default_factory=list)
    first_step_seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """With the loader to without, the median over the rounds."""
        pairs = zip(self.images_per_second, self.synthetic_images_per_second, strict=True)
        return statistics.median(real / synthetic for real, synthetic in pairs)


def end_to_end(config: Config, world: World, rounds: int, steps: int, note: Callable[[str], None]) -> EndToEnd:
    """Times ``steps`` steps with the loader and without, in turn, ``rounds`` times."""
    dtype = autocast_dtype(config.train.precision, world.device)
    found = EndToEnd()
    with tempfile.TemporaryDirectory() as folder:
        loader = training_loader(config, world, Path(folder) / "quarantine.txt", dtype)
        try:
            found.source = loader.source
            step = TrainingStep(config, world, len(loader))
            batches = _endless(loader)
            note("first step")
            start = time.perf_counter()
            step(next(batches).views, 0)
            synchronize(world.device)
            found.first_step_seconds = time.perf_counter() - start
            share = config.train.batch_size // world.world_size
            synthetic = [view[:share] for view in synthetic_views(config, world.device, dtype, channels_last=True)]
            for round_ in range(rounds):
                note(f"round {round_ + 1} of {rounds}")
                _round(found, config, world, step, synthetic, batches, steps)
            batches.close()
        finally:
            loader.close()
    return found


def _round(found: EndToEnd, config: Config, world: World, step, synthetic, batches: Iterator[Batch], steps: int):
    pictures = steps * config.train.batch_size
    for i in range(2):  # the second time is timed: the first lets the loader fill its queues and come to rest
        synchronize(world.device)
        start = time.perf_counter()
        for _ in range(steps if i else 1):
            step(synthetic, 0)
        synchronize(world.device)
    found.synthetic_images_per_second.append(pictures / (time.perf_counter() - start))
    for _ in range(_AHEAD):
        step(next(batches).views, 0)
    synchronize(world.device)
    start, waited = time.perf_counter(), 0.0
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch.views, 0)
    synchronize(world.device)
    seconds = time.perf_counter() - start
    found.images_per_second.append(pictures / seconds)
    found.data_wait.append(waited / seconds)


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader
