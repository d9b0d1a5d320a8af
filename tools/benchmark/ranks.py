"""Times forward and backward passes on several ranks, all views in lockstep and one view after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastintl.config import Config
from fastintl.distributed import World
from fastintl.network import lockstep
from fastintl.network.model import JointEmbedding
from fastintl.training.build import build_model
from tools.benchmark.step import synchronize, synthetic_views

_COLLECTIVES = ("gloo:all_reduce", "nccl:all_reduce")


def compare_ranks(config: Config, world: World, rounds: int, steps: int) -> dict[str, dict]:
    """Both ways in turn, on the same network and noise; neither exchanges gradients.

    Returns:
        For "lockstep" and "view by view": ``collectives`` of a step, as torch's profiler counts them, and
        ``seconds`` of a step, one value a round.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model).to(world.device, memory_format=torch.channels_last)
    share = config.train.batch_size // world.world_size
    views = [view[:share] for view in synthetic_views(config, world.device, torch.float32, channels_last=True)]
    ways: dict[str, Callable] = {"lockstep": _lockstep, "view by view": _view_by_view}
    found = {name: {"collectives": _count(way, model, views), "seconds": []} for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            world.barrier()
            synchronize(world.device)
            start = time.perf_counter()
            for _ in range(steps):
                _step(way, model, views)
            synchronize(world.device)
            found[name]["seconds"].append((time.perf_counter() - start) / steps)
    return found


def _encoders(model: JointEmbedding, count: int) -> list:
    return [model.encoder if i or model.target is None else model.target for i in range(count)]


def _lockstep(model: JointEmbedding, views: Sequence[Tensor]) -> list[Tensor]:
    return lockstep.embed(_encoders(model, len(views)), views, model.regions, model.views_together)


def _view_by_view(model: JointEmbedding, views: Sequence[Tensor]) -> list[Tensor]:
    pairs = zip(_encoders(model, len(views)), views, strict=True)
    return [lockstep.embed([encoder], [view], model.regions)[0] for encoder, view in pairs]


def _step(way: Callable, model: JointEmbedding, views: Sequence[Tensor]) -> None:
    embeddings = way(model, views)
    sum(z.square().sum() for z in embeddings if z.requires_grad).backward()
    model.zero_grad()


def _count(way: Callable, model: JointEmbedding, views: Sequence[Tensor]) -> int:
    _step(way, model, views)
    with torch.profiler.profile() as profile:
        _step(way, model, views)
    return sum(event.name in _COLLECTIVES for event in profile.events())
