"""The learning rates and EMA momenta of every recipe, beside those that the authors' programs train with."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from fastintl.config import load
from fastintl.training.optim import Schedule, ema_momentum
from tools.fidelity.checkouts import COMMANDS, RECIPES, Checkouts
from tools.fidelity.comparison import SCHEDULE_TOLERANCE
from tools.fidelity.their_process import ask

_EPOCH_STEPS = 3  # the schedules are functions of the step, the steps of an epoch and the epochs
_WARMUP_WITHIN_AN_EPOCH = {"ImageNet/train.py": 501}  # as it is on ImageNet, or its last epoch stays at the peak
_NEVER_EVALUATED = {"cifar/main.py", "base/train.py"}


def compare_schedules(checkouts: Checkouts) -> list[dict[str, Any]]:
    """Every step of whole runs by the authors' commands, with epochs of a few steps.

    Returns:
        A row a recipe: how many ``steps``; the ``peak`` of the learning rate; its largest difference as a share of the
        peak, ``lr``, and that of the EMA momentum, ``momentum``; ``holds``: whether both are rounding only.
    """
    rows = []
    for (whose, script), group in groupby(COMMANDS.items(), key=lambda pair: (pair[1].whose, pair[1].script)):
        recipes = dict(group)
        epoch_steps = _WARMUP_WITHIN_AN_EPOCH.get(script, _EPOCH_STEPS)
        never = ["--eval_every", "1000000"] if script in _NEVER_EVALUATED else []
        job = {
            "script": str(checkouts.file(whose, script).absolute()),
            "arguments": [[*command.arguments(checkouts), *never] for command in recipes.values()],
            "epoch_steps": epoch_steps,
        }
        for recipe, theirs in zip(recipes, ask("training", "schedules", job)["runs"], strict=True):
            rows.append(_row(recipe, epoch_steps, theirs))
    return rows


def _row(recipe: str, epoch_steps: int, theirs: dict[str, list[float]]) -> dict[str, Any]:
    config = load(RECIPES / f"{recipe}.yaml")
    schedule, count = Schedule.of(config, epoch_steps), config.train.epochs * epoch_steps
    lr = [schedule(step) for step in range(count)]
    momentum = [
        ema_momentum(step, count, config.model.ema_momentum) if config.model.ema else 0.0 for step in range(count)
    ]
    row = {"recipe": recipe, "steps": count, "peak": max(lr)}
    row |= {"lr": max(abs(a - b) for a, b in zip(lr, theirs["lr"], strict=True)) / max(lr)}
    row |= {"momentum": max(abs(a - b) for a, b in zip(momentum, theirs["momentum"], strict=True))}
    return row | {"holds": max(row["lr"], row["momentum"]) <= SCHEDULE_TOLERANCE}
