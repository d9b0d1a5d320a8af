"""Operations of a training step where crops grow: convolutions, matrix products and the loss, forward and backward,
counted on tensors without memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastintl.config import Config
from loaders.growth import shares


@dataclass(frozen=True)
class StageWork:
    """What a stage of a training asks for; one stage where no crops grow.

    Attributes:
        epoch: where it begins.
        sides: of the views, in pixels.
        share: how much of the training's epochs it takes.
        flops: operations of one of its steps.
        work: those, divided by those of a step at full size.
    """

    epoch: int
    sides: tuple[int, ...]
    share: float
    flops: float
    work: float


def stages_work(config: Config) -> list[StageWork]:
    """The stages of a recipe, the one at full size last."""
    stages = config.crops.stages
    full = replace(config.crops, grow=())
    counted = [_step_flops(replace(config, crops=replace(full, sizes=stage.sides))) for stage in stages]
    weights = shares(stages, config.train.epochs)
    return [
        StageWork(stage.epoch, stage.sides, share, flops, flops / counted[-1])
        for stage, share, flops in zip(stages, weights, counted, strict=True)
    ]


def mean_work(stages: list[StageWork]) -> float:
    """Operations of a training, divided by those of one at full size with as many steps."""
    return sum(stage.share * stage.work for stage in stages)


def describe(stages: list[StageWork]) -> str:
    """A line on crops that grow."""
    parts = (f"{stage.work:.3f} at {' '.join(map(str, stage.sides))} px from epoch {stage.epoch}" for stage in stages)
    return f"its crops grow: {mean_work(stages):.3f} of the operations of full size ({', '.join(parts)})"


def _step_flops(config: Config) -> float:
    """Operations of a step on the global batch."""
    from . import recorded_step  # noqa: F401  (tells torch's counter of the losses' own product)
    from .count import loss_flops
    from .step import step_flops

    return step_flops(config) + sum(loss_flops(config))
