"""The learning rate as a pure function of the step, and what decays."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastintl.detection.config import Optim

_WARMUP_START = 0.001


def learning_rate(step: int, optim: Optim) -> float:
    """A linear rise from a thousandth of ``optim.lr`` over the warm-up, a tenth less after each of ``optim.drops``.

    Args:
        step: 0 .. optim.steps - 1.
    """
    lr = optim.lr * 0.1 ** sum(step >= drop for drop in optim.drops)
    if step < optim.warmup_steps:
        share = step / optim.warmup_steps
        lr *= _WARMUP_START * (1 - share) + share
    return lr


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """All parameters in two groups for a torch optimiser: BatchNorm's do not decay, biases do (detectron2)."""
    norms = {id(p) for module in network.modules() if isinstance(module, _BatchNorm) for p in module.parameters()}
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in norms], "weight_decay": 0.0},
    ]
