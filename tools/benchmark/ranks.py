"""How many all-reduces the SyncBatchNorms of a step need on several ranks, and how long the step takes, with all views
in lockstep and view by view:

    torchrun --nproc-per-node 2 tools/bench.py ranks --json ranks.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from .contenders import Contender, Rounds, time_in_turn
from .options import add_steps, recipe_or_tiny, require_positive
from .results import write_result

if TYPE_CHECKING:
    from torch import Tensor

    from fastintl.config import Config
    from fastintl.distributed import World

_COLLECTIVES = ("gloo:all_reduce", "nccl:all_reduce")

add_arguments = add_steps


def run(arguments: argparse.Namespace) -> None:
    sizes = require_positive(arguments, "rounds", "steps")
    from fastintl import distributed
    from fastintl.config import to_yaml

    with distributed.start() as world:
        config = recipe_or_tiny(arguments, world.device.type)
        group = contenders(config, world, arguments.steps)
        time_in_turn(group, arguments.rounds, may_fail=False)
        if not world.is_main:
            return
        ways = {c.name: {"collectives": c.rounds[0]["collectives"], "seconds": c.values("seconds")} for c in group}
        write_result(arguments, "ranks", **sizes, ranks=world.world_size, config=to_yaml(config), ways=ways)
        for c in group:
            count = ways[c.name]["collectives"]
            print(f"{c.name:14}{count:>6} all-reduces   {1000 * c.median('seconds'):>10,.1f} ms a step")


def contenders(config: Config, world: World, steps: int) -> list[Contender]:
    """Both ways, on the same network and noise; neither exchanges gradients. They measure ``seconds`` of a step, and
    its ``collectives`` as torch's profiler counts them."""
    import torch

    from fastintl.network import lockstep
    from fastintl.training.build import build_model

    from .synthetic import seconds_of, synthetic_views

    torch.manual_seed(config.seed)
    model = build_model(config.model).to(world.device, memory_format=torch.channels_last)
    views = synthetic_views(config, world.device, torch.float32, channels_last=True, ranks=world.world_size)
    encoders = [model.encoder if i or model.target is None else model.target for i in range(len(views))]

    def together() -> list[Tensor]:
        return lockstep.embed(encoders, views, model.regions, model.views_together)

    def one_by_one() -> list[Tensor]:
        pairs = zip(encoders, views, strict=True)
        return [lockstep.embed([encoder], [view], model.regions)[0] for encoder, view in pairs]

    def step(embed: Callable[[], list[Tensor]]) -> None:
        sum(z.square().sum() for z in embed() if z.requires_grad).backward()
        model.zero_grad()

    def rounds(embed: Callable[[], list[Tensor]]) -> Rounds:
        step(embed)
        with torch.profiler.profile() as profile:
            step(embed)
        collectives = sum(event.name in _COLLECTIVES for event in profile.events())
        yield {}
        while True:
            world.barrier()
            seconds = seconds_of(lambda: step(embed), world.device, steps)
            yield {"seconds": seconds / steps, "collectives": collectives}

    return [
        Contender("lockstep", lambda: rounds(together)),
        Contender("view by view", lambda: rounds(one_by_one)),
    ]
