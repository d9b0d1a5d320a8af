"""The first steps of a training, ours and the authors', from the same weights on the same crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastintl.config import Config, load
from fastintl.data import training_loader
from fastintl.distributed import World
from fastintl.losses.base import Position
from fastintl.losses.partition import random_orders
from fastintl.training.optim import Schedule, ema_momentum
from fastintl.training.step import TrainingStep
from tools.fidelity.checkouts import COMMANDS, Checkouts
from tools.fidelity.comparison import allowed, distances, own_difference, relative
from tools.fidelity.their_process import ask

STEPS, ORDERS = 6, 2
_RECIPES = Path(__file__).resolve().parents[2] / "rcfgs"
_ALONE = World(0, 1, 0, torch.device("cpu"))


@dataclass(frozen=True)
class Method:
    """A recipe made small enough for a CPU, in our words and in theirs."""

    name: str
    recipe: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


_VIEWS = "[64,64,56,48,40,32]"
METHODS = (
    Method("INTL", "cifar10", ("train.batch_size=32",), ("--bs", "32", "--eval_every", "1000")),
    Method(
        "INTL with EMA",
        "ep100",
        ("train.batch_size=32", f"crops.sizes={_VIEWS}", "model.projector=[1024,1024,1024]"),
        ("--bs", "32", "--projection_size", "1024", "--emb", "1024"),
    ),
    *(
        Method(
            f"CW-RGP {views}",
            f"cw_rgp/cifar10_{views}",
            ("train.batch_size=32", "loss.w_size=16", f"optim.warmup_steps={STEPS}"),
            ("--bs", "32", "--w_size", "16", "--warmup_iters", str(STEPS)),
        )
        for views in (2, 4)
    ),
)


def compare_steps(method: Method, checkouts: Checkouts, images: Path) -> dict[str, Any]:
    """Trains ``STEPS`` steps on batches of ``images``, and says how far the two lie apart.

    Returns:
        Of every step: ``their_loss``; the relative differences of the losses, ``ours``, and ``own``, the largest of
        the authors' code to itself with its samples in another order, up to this step; ``allowed``; the same two of
        the weights, as shares of the way from the start; the differences of learning rate and EMA momentum.
        ``holds``: whether no loss is further off than allowed.
    """
    words = ["train.device=cpu", "train.precision=fp32", f"train.epochs={STEPS}", f"data.train={images}", *method.ours]
    config = load(_RECIPES / f"{method.recipe}.yaml", [*words, "data.source=memory"])
    batches = _batches(config)
    command = COMMANDS[method.recipe]
    generator = torch.Generator().manual_seed(0)
    theirs = ask(
        "training",
        "steps",
        {
            "script": str(checkouts.file(command.whose, command.script).absolute()),
            "arguments": [*command.arguments(checkouts), *method.theirs, "--epochs", str(STEPS)],
            "batches": batches,
            "orders": [torch.randperm(config.train.batch_size, generator=generator) for _ in range(ORDERS)],
            "partitions": _partitions(config) if config.loss.name == "cw_rgp" else [],
            "probe": batches[0][0],
        },
    )
    ours = _our_steps(config, batches, _our_names(theirs["start"]))
    own = own_difference([relative(other["loss"], theirs["loss"]) for other in theirs["others"]])
    losses = relative(ours["loss"], theirs["loss"])
    start, weights = _our_names(theirs["start"]), [_our_names(one) for one in theirs["weights"]]
    return {
        "method": method.name,
        "recipe": method.recipe,
        "changed": list(method.ours),
        "their_loss": theirs["loss"],
        "loss": losses,
        "own_loss": own,
        "allowed": allowed(own),
        "weights": distances(ours["weights"], weights, start),
        "own_weights": own_difference([other["distance"] for other in theirs["others"]]),
        "lr": max(relative(ours["lr"], theirs["lr"])),
        "momentum": max(abs(a - b) for a, b in zip(ours["momentum"], theirs["momentum"], strict=True)),
        "holds": all(a <= b for a, b in zip(losses, allowed(own), strict=True)),
    }


def _batches(config: Config) -> list[list[Tensor]]:
    loader = training_loader(config, _ALONE, Path("quarantine.txt"), torch.float32)
    try:
        return [[view.contiguous() for view in batch.views] for batch, _ in zip(loader, range(STEPS), strict=False)]
    finally:
        loader.close()


def _partitions(config: Config) -> list[dict[str, Tensor]]:
    """What our CW-RGP loss draws at every step."""
    loss, n, views = config.loss, config.train.batch_size, len(config.crops.sizes)
    shapes = (loss.w_iter, n), (views, loss.w_iter, n // loss.w_size, config.model.projector[-1])
    drawn = [random_orders(Position(config.seed, s, s, 0), torch.device("cpu"), *shapes) for s in range(STEPS)]
    return [{"samples": samples, "channels": channels} for samples, channels in drawn]


def _our_steps(config: Config, batches: list[list[Tensor]], start: dict[str, Tensor]) -> dict[str, list]:
    step = TrainingStep(config, _ALONE, epoch_steps=1)
    step.model.load_state_dict(start)
    found: dict[str, list] = {"loss": [], "lr": [], "momentum": [], "weights": []}
    for number, views in enumerate(batches):
        views = [view.to(memory_format=torch.channels_last) for view in views]
        found["loss"].append(step(views, number).item())
        found["lr"].append(step.lr)
        momentum = ema_momentum(number, step.total_steps, config.model.ema_momentum) if config.model.ema else 0.0
        found["momentum"].append(momentum)
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
