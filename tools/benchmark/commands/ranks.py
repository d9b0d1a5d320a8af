"""How often several ranks meet in a step's BatchNorms and how long the step takes, with all views in lockstep and view
by view:

    torchrun --nproc-per-node 2 tools/bench.py ranks --json ranks.json
"""

from __future__ import annotations

import argparse

from tools.benchmark.commands.common import add_step_arguments, recipe_or_small_one, require_positive, write_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_step_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    sizes = require_positive(arguments, "rounds", "steps")
    from statistics import median

    from fastintl import distributed
    from fastintl.config import to_yaml
    from tools.benchmark.ranks import compare_ranks

    with distributed.start() as world:
        config = recipe_or_small_one(arguments, world.device.type)
        found = compare_ranks(config, world, arguments.rounds, arguments.steps)
        if not world.is_main:
            return
        for name, way in found.items():
            print(f"{name:14}{way['collectives']:>6} all-reduces   {1000 * median(way['seconds']):>10,.1f} ms a step")
        write_result(arguments, "ranks", **sizes, ranks=world.world_size, config=to_yaml(config), ways=found)
