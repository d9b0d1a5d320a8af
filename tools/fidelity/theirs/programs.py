"""Runs a program of the authors', whole, and follows its training through torch's hooks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


def load(script: str) -> ModuleType:
    """Imports a program as Python would start it: its folder is the first place that it imports from."""
    path = Path(script)
    sys.path.insert(0, str(path.parent))
    return importlib.import_module(path.stem)


def run(program: ModuleType, arguments: Sequence[str]) -> None:
    """Runs it from its command line to its end; may be called again."""
    sys.argv = [program.__file__, *arguments]
    Path("rendezvous").unlink(missing_ok=True)
    try:
        program.main()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@dataclass
class Followed:
    """What each step of a program trained with and gave.

    Attributes:
        lr: of the optimiser's first group.
        momentum: of the EMA target; 0 without one.
        loss: of the step.
        weights: every parameter after the step, by name, if they are kept.
        start: the parameters and statistics that it began with.
    """

    keep_weights: bool = True
    lr: list[float] = field(default_factory=list)
    momentum: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    start: dict[str, Tensor] | None = None
    model: nn.Module | None = None

    def watch(self, model: nn.Module) -> nn.Module:
        """Begins to follow a model of theirs; returns it."""
        self.model = model
        self.start = {name: value.clone() for name, value in model.state_dict().items()}
        model.register_forward_hook(self._after_forward)
        return model

    def __enter__(self) -> Followed:
        self._hooks = [
            register_optimizer_step_pre_hook(lambda optimizer, *_: self.lr.append(optimizer.param_groups[0]["lr"])),
            register_optimizer_step_post_hook(lambda *_: self._after_step()),
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _after_forward(self, model: nn.Module, inputs: tuple, loss: Tensor) -> None:
        self.loss.append(loss.item())
        self.momentum.append(float(getattr(model, "m", 0)))

    def _after_step(self) -> None:
        if self.keep_weights:
            self.weights.append({name: value.detach().clone() for name, value in self.model.named_parameters()})


class Tiny(nn.Module):
    """Stands for a model of theirs where only the schedules are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.m = nn.Linear(2, 2), 0

    def forward(self, samples: Any) -> Tensor:
        return 0 * self.layer(torch.ones(1, 2)).sum()

    def step(self, progress: float) -> None:
        pass

    def get_acc(self, *loaders: Any) -> tuple:
        return 0, {1: 0, 5: 0}
