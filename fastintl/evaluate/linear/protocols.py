"""The published ways of training a linear classifier on frozen features, as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from fastintl.evaluate.linear.heads import HeadOptimizerName
from loaders.errors import UserError

ScheduleName = Literal["steps", "cosine", "exponential", "constant"]

# What the learning rate of an epoch is multiplied by, from (epoch, epochs).
SCHEDULES: dict[ScheduleName, Callable[[int, int], float]] = {
    "steps": lambda epoch, epochs: 0.1 ** ((10 * epoch >= 6 * epochs) + (10 * epoch >= 8 * epochs)),  # 60, 80
    "cosine": lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / epochs)),
    "exponential": lambda epoch, epochs: 1e-4 ** (epoch / epochs),
    "constant": lambda epoch, epochs: 1.0,
}


@dataclass(frozen=True)
class HeadProtocol:
    """How heads are trained; a grid of them where ``lr`` or ``weight_decay`` has several values.

    Attributes:
        batch_size: samples a step, over all ranks.
        lr: learning rates; but for Adam's they are for 256 samples a step and scale with the batch size.
        schedule: how the learning rates change from epoch to epoch, one of ``SCHEDULES``.
        init: how the classifiers start, see ``LinearHeads.start``.

    Raises:
        UserError: a number out of range.
    """

    epochs: int
    batch_size: int
    optimizer: HeadOptimizerName
    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    schedule: ScheduleName
    init: Literal["normal", "uniform"]

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError("--epochs and --batch-size must be positive")
        if min(self.lr) <= 0 or min(self.weight_decay) < 0:
            raise UserError("--lr must be above 0, and --weight-decay not below")

    @property
    def grid(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of every head."""
        return [(lr, decay) for lr in self.lr for decay in self.weight_decay]

    @property
    def lr_scale(self) -> float:
        """What a stated learning rate is multiplied by for a step of ``batch_size``."""
        return 1.0 if self.optimizer == "adam" else self.batch_size / 256

    def factor(self, epoch: int) -> float:
        """What the learning rates are multiplied by in an epoch."""
        return SCHEDULES[self.schedule](epoch, self.epochs)


# INTL on ImageNet (lr 0.2 for models of two crops); CW-RGP on ImageNet; INTL and CW-RGP on small datasets.
IMAGENET = HeadProtocol(100, 256, "sgd", (0.4,), (0.0,), "steps", "normal")
CW_RGP = HeadProtocol(100, 1024, "lars", (0.1,), (0.0,), "cosine", "normal")
SMALL = HeadProtocol(500, 1000, "adam", (1e-2,), (5e-6,), "exponential", "uniform")


PROTOCOLS = {"imagenet": IMAGENET, "cw_rgp": CW_RGP, "small": SMALL}


def sweep(protocol: HeadProtocol) -> HeadProtocol:
    """Forty heads around a protocol: ten learning rates, a factor of two apart, times four weight decays."""
    decay = protocol.weight_decay[0] or 1e-6
    rates = tuple(protocol.lr[0] * 2.0**power for power in range(-6, 4))
    return replace(protocol, lr=rates, weight_decay=(0.0, decay, 10 * decay, 100 * decay))
