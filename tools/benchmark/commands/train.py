"""Training with the loader beside the same step on synthetic views, and the share of the time spent waiting for
images; under torchrun on several GPUs:

    python tools/bench.py train --rcfg rcfgs/ep100.yaml data.root=/path/to/imagenet --json train.json
    torchrun --nproc-per-node 8 tools/bench.py train --rcfg rcfgs/ep100.yaml data.root=/path/to/imagenet
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.benchmark.commands.common import add_step_arguments, note, require_positive, write_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_step_arguments(parser)
    parser.add_argument("--data", type=Path, help="short for data.train=")


def run(arguments: argparse.Namespace) -> None:
    sizes = require_positive(arguments, "rounds", "steps")
    from dataclasses import asdict
    from statistics import median

    from fastintl import distributed
    from fastintl.config import load, to_yaml
    from tools.benchmark.train import end_to_end

    data = [f"data.train={arguments.data}"] if arguments.data else []
    config = load(arguments.rcfg, [*data, *arguments.overrides])
    with distributed.start(config.train.device) as world:
        found = end_to_end(config, world, arguments.rounds, arguments.steps, note)
        if not world.is_main:
            return
        print(f"with the loader   {median(found.images_per_second):>10,.1f} images/s   ({found.source})")
        print(f"synthetic views   {median(found.synthetic_images_per_second):>10,.1f} images/s")
        print(f"ratio             {found.ratio:>10.3f}")
        print(f"waiting for data  {median(found.data_wait):>10.1%}")
        print(f"first step        {found.first_step_seconds:>10.1f} s")
        measured = {"config": to_yaml(config), **asdict(found), "ratio": found.ratio}
        write_result(arguments, "train", **sizes, ranks=world.world_size, **measured)
