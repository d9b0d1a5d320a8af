"""Options that several parts of ``tools/bench.py`` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.errors import UserError

if TYPE_CHECKING:
    from fastintl.config import Config

# Without a GPU and without a recipe: the demo's network on three small crops, sixteen images.
TINY = (
    "model.arch=resnet8",
    "model.stem=small",
    "model.projector=[256,256,256]",
    "crops.sizes=[40,40,24]",
    "crops.scales=[[0.2,1],[0.2,1],[0.1,0.5]]",
    "crops.blur=[0,0,0]",
    "crops.solarize=[0,0,0]",
    "train.batch_size=16",
)


def add_timing(parser: argparse.ArgumentParser, rounds: int = 5) -> None:
    """Options of the parts that time contenders in turn."""
    parser.add_argument("--json", type=Path, help="write every sample, what follows, and the environment to this file")
    text = f"times that each contender is timed (default: {rounds})"
    parser.add_argument("--rounds", type=int, default=rounds, help=text)


def add_steps(parser: argparse.ArgumentParser) -> None:
    """Options of the parts that train."""
    parser.add_argument("--rcfg", metavar="RECIPE", help="recipe (step and ranks without one, on a CPU: a small one)")
    add_timing(parser)
    parser.add_argument("--steps", type=int, default=10, help="steps of a round (default: 10)")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """``key=value`` words."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")


def recipe_or_tiny(arguments: argparse.Namespace, device: str) -> Config:
    """The recipe that was named, or on a CPU a small network."""
    from fastintl.config import load

    tiny = TINY if device == "cpu" and arguments.rcfg is None else ()
    return load(arguments.rcfg, [*tiny, *arguments.overrides])


def share_of_batch(config: Config, gpus: int) -> int:
    """Images of a step on one of ``gpus`` GPUs.

    Raises:
        UserError: they cannot share the batch evenly.
    """
    batch = config.train.batch_size
    if batch % gpus:
        raise UserError(f"a batch of {batch} images cannot be shared evenly by {gpus} GPUs")
    return batch // gpus


def require_positive(arguments: argparse.Namespace, *names: str) -> dict[str, float]:
    """The options of these names.

    Raises:
        UserError: one is not above 0.
    """
    for name in names:
        if getattr(arguments, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive")
    return {name: getattr(arguments, name) for name in names}
