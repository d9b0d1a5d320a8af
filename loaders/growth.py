"""Crops that grow: the sides of the views in each epoch, a pure function of the epoch.

A network learns the coarse first, and small crops cost less: FFCV's ImageNet recipe and FFCV-SSL begin at 160 pixels
and end at full size. Here a view's side rises in a few stages. A stage is a range of epochs, so that every rank, every
engine and every restart agrees on the side of every crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loaders.errors import UserError

MOST_STAGES = 4  # each has shapes of its own, for which a compiled network is compiled anew
_STEPS_OF_A_SIDE = 7  # at least: 224 px rise in steps of 32, the stride of a ResNet's last layers


@dataclass(frozen=True)
class Growth:
    """How the sides of all views rise.

    Attributes:
        share: where they begin, as a share of their final sides; more than 0 and less than 1.
        epoch: the first epoch at full size, counted from 0, and so how many epochs have smaller crops.
    """

    share: float
    epoch: int

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"crops begin at a share of their size between 0 and 1, not at {self.share:g}")
        if self.epoch < 1:
            raise UserError(f"crops that grow reach their full size at epoch 1 or later, not at {self.epoch}")


@dataclass(frozen=True)
class Stage:
    """The sides of the V views in pixels, from an epoch on."""

    epoch: int
    sides: tuple[int, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.sides))


def stages_of(sides: Sequence[int], growth: Growth | None) -> tuple[Stage, ...]:
    """The stages of views that end with these sides; one where nothing grows, or where no view is so large.

    There are as many stages as the largest view takes ``step_of`` steps from its first side to its last, at most
    ``MOST_STAGES``, and no two begin in one epoch. From stage to stage the share rises evenly, and the stages but the
    last are equally long. A view's side is the next multiple of its own step at or above its share of the final side,
    and the final side itself in the last stage.
    """
    largest = max(sides)
    first = largest if growth is None else _grown(largest, growth.share)
    if growth is None or first == largest:
        return (Stage(0, tuple(sides)),)
    rises = min(-(-(largest - first) // step_of(largest)), MOST_STAGES - 1, growth.epoch)
    found: list[Stage] = []
    for number in range(rises + 1):
        done = number / rises
        share = growth.share + (1 - growth.share) * done
        stage = Stage(round(growth.epoch * done), tuple(_grown(side, share) for side in sides))
        if not found or stage.sides != found[-1].sides:
            found.append(stage)
    return tuple(found)


def sides_at(stages: Sequence[Stage], epoch: int) -> tuple[int, ...]:
    """The sides of the views in an epoch."""
    return next(stage.sides for stage in reversed(stages) if stage.epoch <= epoch)


def shares(stages: Sequence[Stage], epochs: int) -> list[float]:
    """The share of a training of so many epochs that each stage takes."""
    starts = [min(stage.epoch, epochs) for stage in stages] + [epochs]
    return [(end - start) / epochs for start, end in zip(starts, starts[1:], strict=False)]


def step_of(side: int) -> int:
    """In what steps a side rises: the largest power of two of at most a seventh of it: 32 of 224 pixels, 16 of 192, 160
    and 128, 8 of 96, 4 of 32."""
    return 1 << max(0, (side // _STEPS_OF_A_SIDE).bit_length() - 1)


def _grown(side: int, share: float) -> int:
    step = step_of(side)
    # Rounded first, so that 0.7 of 160 is 112, not a little more.
    return min(side, step * math.ceil(round(share * side / step, 6)))
