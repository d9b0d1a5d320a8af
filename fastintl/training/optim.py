"""Parameter groups, the optimisers, and the schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fastintl.config import Config, Optim
from fastintl.training.lars import LARS


def parameter_groups(model: nn.Module, settings: Optim) -> list[dict]:
    """The parameters that get a gradient, as groups for a torch optimiser.

    Biases and the parameters of normalisation layers form a second group where they do not decay (ImageNet's
    recipes; CIFAR's decay them too) or have a learning rate of their own (Barlow Twins).

    Args:
        model: an EMA target inside is left out, for its parameters get no gradient.

    Returns:
        Groups with ``lr_factor``, their share of the schedule's learning rate.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.decay_one_dimensional and settings.lr_one_dimensional is None:
        return [{"params": parameters, "weight_decay": settings.weight_decay, "lr_factor": 1.0}]
    decay = settings.weight_decay if settings.decay_one_dimensional else 0.0
    factor = (settings.lr_one_dimensional or settings.lr) / settings.lr
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay, "lr_factor": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": decay, "lr_factor": factor},
    ]


def build_optimizer(model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """The optimiser over ``parameter_groups``; ``set_learning_rate`` comes before its steps.

    All three can leave an update out (``found_inf``) and divide by a gradient scaler's scale, without waiting for the
    device: SGD and Adam as torch's fused kernels, LARS by itself.
    """
    groups = parameter_groups(model, settings)
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=settings.lr, fused=True)
    if settings.name == "lars":
        return LARS(groups, lr=settings.lr, momentum=settings.momentum)
    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    if settings.momentum:
        # As the first update would find them. Left to itself the fused kernel makes the momenta in its first update,
        # and keeps uninitialised memory as momenta if that update is left out.
        for parameter in (p for group in groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def states_a_parameter(settings: Optim) -> int:
    """How many tensors of a parameter's size the optimiser keeps: momenta, and Adam's squares."""
    return {"sgd": int(settings.momentum > 0), "lars": 1, "adam": 2}[settings.name]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all groups, from the schedule's: times their ``lr_factor``, where they have one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step of a run: a linear warm-up, then one of three ways down.

    Attributes:
        settings: which way, and its numbers.
        base: the peak.
        epochs, epoch_steps: of the run.
        warmup_steps: may be 0.
    """

    settings: Optim
    base: float
    epochs: int
    epoch_steps: int
    warmup_steps: int

    @classmethod
    def of(cls, config: Config, epoch_steps: int) -> Schedule:
        """The schedule of a run; ``epoch_steps`` are those of an epoch."""
        settings, base = config.optim, config.optim.lr
        if settings.name != "adam":
            base = scaled_learning_rate(base, config.train.batch_size)
        warmup_steps = settings.warmup_steps
        if warmup_steps is None:
            warmup_steps = round(settings.warmup_epochs * epoch_steps)
        return cls(settings, base, config.train.epochs, epoch_steps, warmup_steps)

    def __call__(self, step: int) -> float:
        """The learning rate of a step, 0 .. epochs * epoch_steps - 1.

        The first step does not train at zero, and the last one of the warm-up trains at the peak.
        """
        settings, epoch = self.settings, step // self.epoch_steps
        if step < self.warmup_steps:
            return self.base * (step + 1) / self.warmup_steps
        if settings.schedule == "step":
            return step_decay(epoch, self.epochs, self.base, settings.drop_epochs, settings.drop_factor)
        if settings.schedule == "cosine_epoch":
            return cosine(epoch, self.epochs, self.base, settings.final_fraction)
        done, to_do = step - self.warmup_steps + 1, self.epochs * self.epoch_steps - self.warmup_steps
        return cosine(done, to_do, self.base, settings.final_fraction)


def scaled_learning_rate(lr: float, batch_size: int) -> float:
    """The peak of SGD and LARS, ``lr * batch / 256``, from the global batch size."""
    return lr * batch_size / 256


def cosine(done: int, total: int, base: float, final_fraction: float) -> float:
    """From ``base`` to ``final_fraction * base``: ``base q + final_fraction base (1 - q)`` with
    ``q = 0.5 (1 + cos(pi done / total))``.

    INTL's counts steps after the warm-up, and the one in hand as done, as the authors' released script does: the
    first is already one step down, and the last trains at exactly ``final_fraction * base``. CW-RGP's on ImageNet
    counts finished epochs of the whole run.
    """
    q = 0.5 * (1 + math.cos(math.pi * done / total))
    return base * q + final_fraction * base * (1 - q)


def step_decay(epoch: int, epochs: int, base: float, drop_epochs: Sequence[int], factor: float) -> float:
    """``base`` times ``factor`` for every drop that lies behind, each so many epochs before the end (CW-RGP).

    A drop that would lie before the start of a shorter run falls away, as in torch's ``MultiStepLR``.
    """
    return base * factor ** sum(0 < epochs - before <= epoch for before in drop_epochs)


def ema_momentum(step: int, total_steps: int, base: float = 0.996) -> float:
    """The target's momentum, ``1 - 0.5 (1 + cos(pi s / S)) (1 - base)``, warm-up or not."""
    return 1 - 0.5 * (1 + math.cos(math.pi * step / total_steps)) * (1 - base)
