"""Operations of a training step and, where crops grow, of its stages: convolutions, matrix products and the loss,
forward and backward, counted on tensors without memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastintl.config import Config, Model
from loaders.growth import shares

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
    return step_flops(config) + sum(loss_flops(config))


def step_flops(config: Config) -> int:
    """Operations of a step's convolutions and linear layers, forward and backward, without the loss."""
    target, encoder = config.model.ema, replace(config.model, ema=False)
    views = [_view_flops(encoder, size) for size in config.crops.sizes]
    # The target sees its view forward alone.
    ours = [forward if target and v == 0 else forward + backward for v, (forward, backward) in enumerate(views)]
    return config.train.batch_size * sum(ours)


@functools.cache  # the stages of crops that grow share sizes
def _view_flops(model: Model, size: int) -> tuple[int, int]:
    """Operations of one view of one image, forward and backward."""
    import torch

    from fastintl.training.build import build_model

    from .recorded_step import pass_flops

    images = 2  # BatchNorm refuses one, where its map is 1 x 1
    with torch.device("meta"):
        encoder, views = build_model(model), [torch.empty(images, 3, size, size)]
        forward, backward = pass_flops(lambda: encoder(views)[0].sum())
    return forward // images, backward // images


def loss_flops(config: Config) -> tuple[int, int]:
    """Operations of the loss over the global batch, forward and backward."""
    from fastintl.training.build import build_loss

    from .recorded_step import pass_flops  # which also tells torch's counter of the losses' own product

    return pass_flops(lambda: build_loss(config.loss)(*embeddings(config, "meta")))


def embeddings(config: Config, device: str, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The arguments of the loss, with arbitrary contents."""
    import torch

    n, d, target = config.train.batch_size, config.model.projector[-1], config.model.ema
    online = torch.empty(len(config.crops.sizes) - target, n, d, dtype=dtype, device=device, requires_grad=True)
    return [online, torch.empty(n, d, dtype=dtype, device=device)] if target else [online]
