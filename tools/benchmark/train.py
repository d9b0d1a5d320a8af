"""Training with the loader beside the same step on synthetic views, and the share of the time spent waiting for
images; under torchrun on several GPUs:

    python tools/bench.py train --rcfg rcfgs/ep100.yaml data.root=/path/to/imagenet --json train.json
    torchrun --nproc-per-node 8 tools/bench.py train --rcfg rcfgs/ep100.yaml data.root=/path/to/imagenet
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from .contenders import Contender, Rounds, note, ratio, time_in_turn
from .options import add_steps, require_positive
from .results import write_result

if TYPE_CHECKING:
    import torch

    from fastintl.config import Config
    from fastintl.distributed import World
    from loaders import Batch, Loader

_AHEAD = 4  # batches that the loader's queues may have filled while the other was timed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_steps(parser)
    parser.add_argument("--data", type=Path, help="short for data.train=")


def run(arguments: argparse.Namespace) -> None:
    sizes = require_positive(arguments, "rounds", "steps")
    import torch

    from fastintl import distributed
    from fastintl.config import load, to_yaml
    from fastintl.data import training_loader
    from fastintl.network.precision import autocast_dtype

    data = [f"data.train={arguments.data}"] if arguments.data else []
    config = load(arguments.rcfg, [*data, *arguments.overrides, "crops.grow=[]"])  # what grows is timed at full size
    with distributed.start(config.train.device) as world, tempfile.TemporaryDirectory() as folder:
        dtype = autocast_dtype(config.train.precision, world.device)
        with closing(training_loader(config, world, Path(folder) / "quarantine.txt", dtype)) as loader:
            first_step_seconds, group = contenders(config, world, loader, dtype, arguments.steps)
            time_in_turn(group, arguments.rounds, may_fail=False)
        if not world.is_main:
            return
        alone, fed = group
        measured = {
            "source": loader.source,
            "images_per_second": fed.values("images_per_second"),
            "synthetic_images_per_second": alone.values("images_per_second"),
            "data_wait": fed.values("data_wait"),
            "first_step_seconds": first_step_seconds,
            "peak_bytes": torch.cuda.max_memory_allocated() if world.device.type == "cuda" else None,
            "ratio": ratio(fed, alone, "images_per_second"),
        }
        write_result(arguments, "train", **sizes, ranks=world.world_size, config=to_yaml(config), **measured)
        print(f"with the loader   {fed.median('images_per_second'):>10,.1f} images/s   ({loader.source})")
        print(f"synthetic views   {alone.median('images_per_second'):>10,.1f} images/s")
        print(f"ratio             {measured['ratio']:>10.3f}")
        print(f"waiting for data  {fed.median('data_wait'):>10.1%}")
        print(f"first step        {first_step_seconds:>10.1f} s")


def contenders(
    config: Config, world: World, loader: Loader, dtype: torch.dtype, steps: int
) -> tuple[float, list[Contender]]:
    """Seconds of the first step, compilation included, and who is timed: the step alone, and with the loader."""
    from fastintl.training.step import TrainingStep

    from .synthetic import seconds_of, synthetic_views

    step, batches = TrainingStep(config, world, len(loader)), _endless(loader)
    note("first step")
    first_step_seconds = seconds_of(lambda: step(next(batches).views, 0), world.device)
    views = synthetic_views(config, world.device, dtype, channels_last=True, ranks=world.world_size)
    images = steps * config.train.batch_size
    waits: list[float] = []  # seconds that each step with the loader waited for its batch

    def alone() -> Rounds:
        yield {}
        while True:
            step(views, 0)  # meanwhile the loader fills its queues and comes to rest
            yield {"images_per_second": images / seconds_of(lambda: step(views, 0), world.device, steps)}

    def with_loader() -> Rounds:
        with closing(batches):
            yield {}
            while True:
                for _ in range(_AHEAD):
                    fed_step()
                waits.clear()
                seconds = seconds_of(fed_step, world.device, steps)
                yield {"images_per_second": images / seconds, "data_wait": sum(waits) / seconds}

    def fed_step() -> None:
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - asked)
        step(batch.views, 0)

    return first_step_seconds, [Contender("synthetic views", alone), Contender("with the loader", with_loader)]


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader
