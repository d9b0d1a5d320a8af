"""Operations of a training step, counted on tensors without memory: of convolutions and matrix products, which are all
that torch's counter knows, forward and backward.
"""

from __future__ import annotations

from dataclasses import replace

from fastintl.config import Config
from loaders.growth import shares


def step_flops(config: Config) -> float:
    """Operations of one step on the global batch, loss included, at the full size of the crops."""
    from .count import loss_flops
    from .recorded_step import record

    _, calls = record(config, 1)
    return sum(call.times * sum(call.flops) for call in calls) + sum(loss_flops(config))


def stage_flops(config: Config) -> list[float]:
    """``step_flops`` of each stage of crops that grow; of one stage where they do not."""
    full = replace(config.crops, grow=())
    return [step_flops(replace(config, crops=replace(full, sizes=stage.sides))) for stage in config.crops.stages]


def mean_flops(config: Config) -> float:
    """Operations of a step on the mean of the run."""
    weights = shares(config.crops.stages, config.train.epochs)
    return sum(share * flops for share, flops in zip(weights, stage_flops(config), strict=True))


def share_of_full_size(config: Config) -> float:
    """Operations of the run, divided by those of one with as many steps at full size; 1 where nothing grows."""
    return mean_flops(config) / stage_flops(config)[-1] if config.crops.grow else 1.0
