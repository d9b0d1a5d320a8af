"""The first steps of a training, ours and the authors', from the same weights on the same crops."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastintl.config import Config, load
from fastintl.data import training_loader
from fastintl.distributed import World
from fastintl.losses.base import Position
from fastintl.losses.cw_rgp import random_orders
from fastintl.network.model import JointEmbedding
from fastintl.training.optim import ema_momentum
from fastintl.training.step import TrainingStep
from fastintl.weights.backbone import load_backbone
from tools.fidelity.checkouts import COMMANDS, RECIPES, Checkouts
from tools.fidelity.comparison import (
    FEATURES_TOLERANCE,
    SCHEDULE_TOLERANCE,
    allowed,
    distances,
    own_difference,
    relative,
)
from tools.fidelity.their_process import ask

STEPS, ORDERS = 6, 2
ALONE = World(0, 1, 0, torch.device("cpu"))


@dataclass(frozen=True)
class Method:
    """A recipe made small enough for a CPU, in our words and in theirs."""

    name: str
    recipe: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


_SIZES = "[48,48,40,32,32,32]"
METHODS = (
    Method("INTL", "cifar10", ("train.batch_size=64", "crops.sizes=[16,16]"), ("--bs", "64", "--eval_every", "1000")),
    Method(
        "INTL with EMA",
        "ep100",
        ("train.batch_size=32", f"crops.sizes={_SIZES}", "model.projector=[1024,1024,1024]"),
        ("--bs", "32", "--projection_size", "1024", "--emb", "1024"),
    ),
    *(
        Method(
            f"CW-RGP {views}",
            f"cw_rgp/cifar10_{views}",
            ("train.batch_size=64", f"crops.sizes={[16] * views}", "loss.w_size=16", f"optim.warmup_steps={STEPS}"),
            ("--bs", "64", "--w_size", "16", "--warmup_iters", str(STEPS)),
        )
        for views in (2, 4)
    ),
)


def compare_steps(method: Method, checkouts: Checkouts, images: Path) -> dict[str, Any]:
    """Trains ``STEPS`` steps on batches of ``images`` from the authors' weights, and says how far the two lie apart.

    Twice: rounding as the authors do, with the images in torch's contiguous memory format and the EMA in their order of
    operations; and as we train, in channels_last and with an EMA that rounds once, beside theirs in channels_last.

    Returns:
        ``their_loss`` of every step; ``loaded``, see ``_their_steps``; ``lr`` and ``momentum``, the largest differences
        of the learning rate (relative) and of the EMA momentum; ``contiguous`` and ``channels_last``, each a dict as
        ``_differences`` has it; and ``holds``, whether all is as near as it must be.
    """
    words = ["train.device=cpu", "train.precision=fp32", f"train.epochs={STEPS}", f"data.train={images}", *method.ours]
    config = load(RECIPES / f"{method.recipe}.yaml", [*words, "data.source=memory"])
    batches = _batches(config)
    theirs = _their_steps(method, config, batches, checkouts)
    ours = _our_steps(config, batches, theirs["start"], torch.contiguous_format, update_target_as_theirs)
    trained = _our_steps(config, batches, theirs["start"], torch.channels_last)
    found = {
        "method": method.name,
        "recipe": method.recipe,
        "changed": list(method.ours),
        "their_loss": theirs["loss"],
        "loaded": theirs["loaded"],
        "lr": max(relative(ours["lr"], theirs["lr"])),
        "momentum": max(abs(a - b) for a, b in zip(ours["momentum"], theirs["momentum"], strict=True)),
        "contiguous": _differences(ours, theirs, theirs["reordered"]),
        "channels_last": _differences(trained, theirs, [theirs["channels_last"]]),
    }
    near = all(a <= b for a, b in zip(found["contiguous"]["loss"], found["contiguous"]["allowed"], strict=True))
    schedules = max(found["lr"], found["momentum"]) <= SCHEDULE_TOLERANCE
    return found | {"holds": near and schedules and (found["loaded"] or 0.0) <= FEATURES_TOLERANCE}


def _differences(ours: dict[str, list], theirs: dict[str, Any], again: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Of every step: the relative difference of the losses, ``loss``; how far the weights lie apart as a share of
    their way from the start, ``weights``; the largest of both that the authors' code, trained ``again``, has shown to
    itself up to the step, ``own_loss`` and ``own_weights``; and ``allowed`` for the loss."""
    own = own_difference([relative(one["loss"], theirs["loss"]) for one in again])
    return {
        "loss": relative(ours["loss"], theirs["loss"]),
        "own_loss": own,
        "allowed": allowed(own),
        "weights": distances(ours["weights"], theirs["weights"], theirs["start"]),
        "own_weights": own_difference([one["distance"] for one in again]),
    }


def _batches(config: Config) -> list[list[Tensor]]:
    loader = training_loader(config, ALONE, Path("quarantine.txt"), torch.float32)
    try:
        return [batch.views for _, batch in zip(range(STEPS), loader, strict=False)]
    finally:
        loader.close()


def _their_steps(method: Method, config: Config, batches: list[list[Tensor]], checkouts: Checkouts) -> dict[str, Any]:
    """The answer of ``theirs.training.steps``, its weights under our names, and ``loaded``: how far the features of the
    backbone that we load from their file lie from theirs, relative; None if they have not saved one."""
    command, generator = COMMANDS[method.recipe], torch.Generator().manual_seed(0)
    job = {
        "script": str(checkouts.file(command.whose, command.script).absolute()),
        "arguments": [*command.arguments(checkouts), *method.theirs, "--epochs", str(STEPS)],
        "batches": batches,
        "orders": [torch.randperm(config.train.batch_size, generator=generator) for _ in range(ORDERS)],
        "partitions": _partitions(config) if config.loss.name == "cw_rgp" else [],
        "probe": batches[0][0],
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = ask("training", "steps", job, Path(folder))
        file, loaded = Path(folder) / "saved.pth.tar", None
        if file.exists():
            with torch.no_grad():
                features = load_backbone(file, config.model.arch, stem=config.model.stem)(job["probe"])
            loaded = float((features - answer["features"]).norm() / answer["features"].norm())
    weights = [_our_names(one) for one in answer["weights"]]
    return {**answer, "start": _our_names(answer["start"]), "weights": weights, "loaded": loaded}


def _partitions(config: Config) -> list[dict[str, Tensor]]:
    """What our CW-RGP loss draws at every step."""
    loss, n, views = config.loss, config.train.batch_size, len(config.crops.sizes)
    shapes = (loss.w_iter, n), (views, loss.w_iter, n // loss.w_size, config.model.projector[-1])
    drawn = [random_orders(Position(config.seed, s, s, 0), torch.device("cpu"), *shapes) for s in range(STEPS)]
    return [{"samples": samples, "channels": channels} for samples, channels in drawn]


def update_target_as_theirs(model: JointEmbedding, momentum: float) -> None:
    """``JointEmbedding.update_target`` with the authors' three roundings of a weight instead of one.

    The order of the images does not touch these roundings, so they are no part of the authors' difference to itself.
    """
    if model.target is not None:
        for target, online in zip(model.target.parameters(), model.encoder.parameters(), strict=True):
            target.data = target.data * momentum + online.data * (1 - momentum)


def _our_steps(
    config: Config,
    batches: list[list[Tensor]],
    start: dict[str, Tensor],
    memory: torch.memory_format,
    update_target: Callable[[JointEmbedding, float], None] = JointEmbedding.update_target,
) -> dict[str, list]:
    """``loss``, ``lr``, ``momentum`` and ``weights`` of every step."""
    step = TrainingStep(config, ALONE, epoch_steps=1)
    step.model.update_target = partial(update_target, step.model)
    step.model.load_state_dict(start)
    step.model.to(memory_format=memory)
    found: dict[str, list] = {"loss": [], "lr": [], "momentum": [], "weights": []}
    for number, batch in enumerate(batches):
        found["loss"].append(step([view.to(memory_format=memory) for view in batch], number).item())
        found["lr"].append(step.lr)
        ema = config.model.ema
        found["momentum"].append(ema_momentum(number, STEPS, config.model.ema_momentum) if ema else 0.0)
        found["weights"].append({name: value.detach().clone() for name, value in step.model.named_parameters()})
    return found


_OUR_NAMES = {
    "backbone.": "encoder.backbone.",
    "projection.": "encoder.projector.",
    "momentum_backbone.": "target.backbone.",
    "momentum_projection.": "target.projector.",
    "model.module.": "encoder.backbone.",
    "head.": "encoder.projector.",
}


def _our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model of theirs under the names of ``JointEmbedding``."""
    found = {}
    for name, value in state.items():
        theirs = next(prefix for prefix in _OUR_NAMES if name.startswith(prefix))
        found[_OUR_NAMES[theirs] + name.removeprefix(theirs)] = value
    return found
