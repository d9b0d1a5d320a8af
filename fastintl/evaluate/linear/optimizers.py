"""SGD, Adam and LARS for ``LinearHeads``: every head with a learning rate and a weight decay of its own.

Each head is updated exactly as it would be alone under ``torch.optim``. All arithmetic is elementwise over (H, …)
tensors, or, for LARS, a norm a head.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fastintl.evaluate.linear.heads import LinearHeads

HeadOptimizerName = Literal["sgd", "lars", "larc", "adam"]


class HeadSGD:
    """SGD with momentum, as ``torch.optim.SGD``: ``v = m v + g + wd w``, ``w = w - lr v``.

    Args:
        heads: updated in place.
        lr: the learning rate of each head, (H,).
        weight_decay: the weight decay of each head, (H,).
        momentum: ``m``.
    """

    def __init__(self, heads: LinearHeads, lr: Tensor, weight_decay: Tensor, momentum: float = 0.9) -> None:
        self.parameters, self.momentum = heads.parameters, momentum
        self.lr, self.weight_decay = lr.to(heads.weight), weight_decay.to(heads.weight)
        self.velocities = [torch.zeros_like(p) for p in self.parameters]

    def step(self, gradients: list[Tensor], factor: float) -> None:
        """Updates the heads at ``factor`` times their learning rates; overwrites ``gradients``."""
        for p, g, v in zip(self.parameters, gradients, self.velocities, strict=True):
            rate_H = self._layer_rates(p, g, factor)
            g.addcmul_(_per_head(self.weight_decay, p), p)
            if rate_H is not None:
                g.mul_(_per_head(rate_H, g))
            v.mul_(self.momentum).add_(g)
            p.addcmul_(_per_head(self.lr, p), v, value=-factor)

    def _layer_rates(self, parameter: Tensor, gradient: Tensor, factor: float) -> Tensor | None:
        """What each head's step in this parameter is multiplied by, (H,); None in plain SGD."""
        return None

    def state_dict(self) -> dict:
        return {"velocities": self.velocities}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.velocities, state["velocities"], strict=True):
            mine.copy_(saved)


class HeadLARS(HeadSGD):
    """SGD whose gradients are scaled layer by layer (You et al., arXiv 1708.03888).

    Before the momentum, ``g + wd w`` is multiplied by ``r = trust ||w|| / (||g|| + wd ||w|| + 1e-8)``; a layer without
    weights or without gradient is left alone. Weight and bias are two layers, and every head has its own.

    Args:
        clip: False is LARS, as NVIDIA's apex computes it in ``LARC(clip=False)``; True is LARC, which uses
            ``min(r / lr, 1)``: a layer's rate is never above the global one.
    """

    TRUST, EPS = 0.001, 1e-8

    def __init__(self, heads: LinearHeads, lr: Tensor, weight_decay: Tensor, momentum: float = 0.9, *, clip: bool):
        super().__init__(heads, lr, weight_decay, momentum)
        self.clip = clip

    def _layer_rates(self, parameter: Tensor, gradient: Tensor, factor: float) -> Tensor:
        size_H, slope_H = (x.flatten(1).norm(dim=1) for x in (parameter, gradient))
        rate_H = self.TRUST * size_H / (slope_H + self.weight_decay * size_H + self.EPS)
        if self.clip:
            rate_H = (rate_H / (self.lr * factor)).clamp(max=1)
        return torch.where((size_H > 0) & (slope_H > 0), rate_H, 1)


class HeadAdam:
    """Adam, as ``torch.optim.Adam``, whose weight decay is added to the gradient.

    Args:
        heads: updated in place.
        lr: the learning rate of each head, (H,).
        weight_decay: the weight decay of each head, (H,).
    """

    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

    def __init__(self, heads: LinearHeads, lr: Tensor, weight_decay: Tensor) -> None:
        self.parameters = heads.parameters
        self.lr, self.weight_decay = lr.to(heads.weight), weight_decay.to(heads.weight)
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    def step(self, gradients: list[Tensor], factor: float) -> None:
        """Updates the heads at ``factor`` times their learning rates; overwrites ``gradients``."""
        self.steps += 1
        bias1, bias2 = 1 - self.BETA1**self.steps, 1 - self.BETA2**self.steps
        for p, g, mean, square in zip(self.parameters, gradients, self.means, self.squares, strict=True):
            g.addcmul_(_per_head(self.weight_decay, p), p)
            mean.lerp_(g, 1 - self.BETA1)
            square.mul_(self.BETA2).addcmul_(g, g, value=1 - self.BETA2)
            root = torch.sqrt(square, out=g).div_(math.sqrt(bias2)).add_(self.EPS)
            move = torch.div(mean, root, out=g)
            p.addcmul_(_per_head(self.lr, p), move, value=-factor / bias1)

    def state_dict(self) -> dict:
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip([*self.means, *self.squares], [*state["means"], *state["squares"]], strict=True):
            mine.copy_(saved)
        self.steps = state["steps"]


def build_head_optimizer(
    name: HeadOptimizerName, heads: LinearHeads, lr: Tensor, weight_decay: Tensor
) -> HeadSGD | HeadAdam:
    """The optimiser of that name; ``lr`` and ``weight_decay`` are (H,)."""
    if name == "sgd":
        return HeadSGD(heads, lr, weight_decay)
    if name == "adam":
        return HeadAdam(heads, lr, weight_decay)
    return HeadLARS(heads, lr, weight_decay, clip=name == "larc")


def _per_head(value_H: Tensor, like: Tensor) -> Tensor:
    return value_H.view(-1, *[1] * (like.ndim - 1))
