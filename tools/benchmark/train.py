"""Times training end to end, loader included, beside the same step on views that lie ready."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fastintl.config import Config
from fastintl.data import training_loader
from fastintl.distributed import World
from fastintl.network.precision import autocast_dtype
from fastintl.training.step import TrainingStep
from loaders import Batch, Loader
from tools.benchmark.step import synchronize, synthetic_views

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
            found.first_step_seconds = _seconds(world, lambda: step(next(batches).views, 0))
            share = config.train.batch_size // world.world_size
            synthetic = [view[:share] for view in synthetic_views(config, world.device, dtype, channels_last=True)]
            for round_ in range(rounds):
                note(f"round {round_ + 1} of {rounds}")
                _round(found, config, world, step, synthetic, batches, steps)
            batches.close()
        finally:
            loader.close()
    return found


def _round(
    found: EndToEnd,
    config: Config,
    world: World,
    step: TrainingStep,
    synthetic: list[Tensor],
    batches: Iterator[Batch],
    steps: int,
) -> None:
    def alone() -> None:
        for _ in range(steps):
            step(synthetic, 0)

    def with_loader(count: int) -> float:
        waited = 0.0
        for _ in range(count):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            step(batch.views, 0)
        return waited

    images = steps * config.train.batch_size
    step(synthetic, 0)  # meanwhile the loader fills its queues and comes to rest
    found.synthetic_images_per_second.append(images / _seconds(world, alone))
    with_loader(_AHEAD)
    waits: list[float] = []
    seconds = _seconds(world, lambda: waits.append(with_loader(steps)))
    found.images_per_second.append(images / seconds)
    found.data_wait.append(waits[0] / seconds)


def _seconds(world: World, action: Callable[[], object]) -> float:
    synchronize(world.device)
    start = time.perf_counter()
    action()
    synchronize(world.device)
    return time.perf_counter() - start


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader
