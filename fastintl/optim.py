"""Parameter groups, the optimiser, and the schedules as pure functions of the step."""

from __future__ import annotations

import math

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float, decay_one_dimensional: bool) -> list[dict]:
    """The parameters that get a gradient, as groups for a torch optimiser.

    Args:
        model: an EMA target inside is left out, for its parameters get no gradient.
        weight_decay: of the first group.
        decay_one_dimensional: whether biases and BatchNorm's parameters decay too (CIFAR) or form a second
            group without weight decay (ImageNet).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if decay_one_dimensional:
        return [{"params": parameters, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(
    model: nn.Module, lr: float, weight_decay: float, decay_one_dimensional: bool, momentum: float = 0.9
) -> torch.optim.SGD:
    """SGD with momentum over ``parameter_groups``, as one fused kernel, which can leave an update out (``found_inf``).

    The momenta are zeros from the start, as the first update would find them. Left to itself the fused kernel makes
    them in its first update, and keeps uninitialised memory as momenta if that update is left out.
    """
    groups = parameter_groups(model, weight_decay, decay_one_dimensional)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    if momentum:
        for parameter in (p for group in groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def scaled_learning_rate(lr: float, batch_size: int) -> float:
    """The base learning rate of the schedule, ``lr * batch / 256``, from the global batch size."""
    return lr * batch_size / 256


def learning_rate(step: int, total_steps: int, warmup_steps: int, base: float, final_fraction: float = 0.001) -> float:
    """Linear warm-up, then a cosine from ``base`` to ``final_fraction * base``.

    Warm-up: ``base (step + 1) / warmup``. After it, with s counted from the end of the warm-up and S the
    number of all steps: ``q = 0.5 (1 + cos(pi (s + 1) / (S - warmup)))``, learning rate
    ``base q + final_fraction base (1 - q)``.

    Both parts use step + 1, as the authors' released script does: the first step does not train at zero, the
    last warm-up step trains at ``base``, the first cosine step is already one step down, and the last step
    trains at exactly ``final_fraction * base``.

    Args:
        step: 0 .. total_steps - 1.
        total_steps: steps of the whole run, warm-up included.
        warmup_steps: may be 0.
        base: the peak, ``scaled_learning_rate(lr, batch)``.
        final_fraction: of the base, reached at the last step.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    q = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps + 1) / (total_steps - warmup_steps)))
    return base * q + final_fraction * base * (1 - q)


def ema_momentum(step: int, total_steps: int, base: float = 0.996) -> float:
    """The target's momentum, ``1 - 0.5 (1 + cos(pi s / S)) (1 - base)``, warm-up or not."""
    return 1 - 0.5 * (1 + math.cos(math.pi * step / total_steps)) * (1 - base)
