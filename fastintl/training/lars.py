"""LARS: SGD with momentum whose step in a layer is proportional to the size of the layer's weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """You et al., arXiv 1708.03888, as Barlow Twins' released code has it.

    ``u = g + wd w``; ``u = trust ||w|| / ||u|| u``, but not for biases and the parameters of normalisation layers,
    nor where one of the norms is zero; ``v = momentum v + u``; ``w = w - lr v``.

    As torch's fused optimisers do, it divides gradients by ``grad_scale`` and leaves an update out where ``found_inf``
    is 1, both scalars on the device and set as attributes before a step.

    Args:
        groups: parameters, or groups of them with their own ``lr`` and ``weight_decay``.
    """

    _step_supports_amp_scaling = True  # tells torch's GradScaler that grad_scale and found_inf are seen to here

    def __init__(
        self,
        groups: Iterable,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        scale, left_out = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                gradient = parameter.grad if scale is None else parameter.grad / scale
                velocity = self.state[parameter]["momentum_buffer"]
                moved = velocity * group["momentum"] + _update(parameter, gradient, group)
                weights = parameter.add(moved, alpha=-group["lr"])
                for old, new in ((velocity, moved), (parameter, weights)):
                    old.copy_(new if left_out is None else torch.where(left_out > 0, old, new))


def _update(parameter: Tensor, gradient: Tensor, group: dict) -> Tensor:
    update = gradient.add(parameter, alpha=group["weight_decay"])
    if parameter.ndim <= 1:
        return update
    size, length = parameter.norm(), update.norm()
    return update * torch.where((size > 0) & (length > 0), group["trust"] * size / length, 1.0)
