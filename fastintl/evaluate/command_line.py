"""The command-line options that the evaluation tools share; importing this needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from fastintl.config import recipes
from fastintl.config.keys import LARGEST_SEED
from fastintl.config.options import parse_yaml
from fastintl.config.values import check_range, convert
from fastintl.network.names import STEMS
from loaders.errors import UserError, require_writable
from loaders.recipe import LEAST_AREA, Interpolation


def parse_with_recipe(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line after the options of the recipe that its ``--rcfg`` names, which it overrides.

    Args:
        words: the command line; None takes the process's.

    Raises:
        UserError: the recipe cannot be read, a value is out of range, or the result could not be written.
    """
    parser.add_argument("--rcfg", metavar="RECIPE", help="of an evaluation: a file, or a name such as eval/knn_5")
    words = list(sys.argv[1:] if words is None else words)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--rcfg")
    recipe = early.parse_known_args(words)[0].rcfg
    given = parser.parse_args([*(_options_of(recipe) if recipe else []), *words])
    require_writable(given.json, given.results)
    return given


def _options_of(recipe: str) -> list[str]:
    """A file of ``option: value`` lines as words; ``true`` is an option without a value, ``false`` is left out."""
    tree = parse_yaml(recipes.read(recipe), recipe) or {}
    if not isinstance(tree, Mapping) or not all(isinstance(value, str) for value in tree.values()):
        raise UserError(f"{recipe}: holds more than option: value lines; is it the recipe of a pretraining?")
    given = {key: value for key, value in tree.items() if value != "false"}
    return [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in given.items()]


def number(option: str, kind: type = int, **ranges: float) -> Callable[[str], Any]:
    """A ``type`` for argparse: a finite number within a range, or one sentence that names the option.

    Args:
        ranges: ``least``, ``above`` or ``most``.
    """

    def parse(text: str) -> Any:
        value = convert(text, kind, option)
        check_range(value, ranges, option)
        return value

    return parse


def seed_number() -> Callable[[str], int]:
    """The ``type`` of ``--seed``."""
    return number("--seed", least=0, most=LARGEST_SEED)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Which network is in the file of weights."""
    parser.add_argument("--arch", help="architecture, as model.arch (default: what the file says, else resnet50)")
    parser.add_argument("--stem", help=f"{', '.join(STEMS)} (default: what the file says, else imagenet)")
    parser.add_argument("--target", action="store_true", help="take the EMA copy of the backbone")


def add_images(parser: argparse.ArgumentParser) -> None:
    """How images are read and cropped, and on what device."""
    sides = {"--resize": "shorter side (default: the run's, else 256)", "--size": "of the centre crop (likewise 224)"}
    for option, text in sides.items():
        parser.add_argument(option, type=number(option, least=1), metavar="PIXELS", help=text)
    parser.add_argument("--source", default="auto", help="reader of the images, as data.source (default: auto)")
    text = "decoding threads a rank (default: its share of cores)"
    parser.add_argument("--threads", type=number("--threads", least=0), default=0, help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def add_extraction(parser: argparse.ArgumentParser) -> None:
    """How features are extracted: network, images, and what is made of them."""
    add_network(parser)
    add_images(parser)
    parser.add_argument("--flip-average", action="store_true", help="mean of a view's and its mirror image's features")
    text = "images at a time, of all ranks (default: 256)"
    parser.add_argument("--batch-size", type=number("--batch-size", least=1), default=256, help=text)


def add_feature_cache(parser: argparse.ArgumentParser) -> None:
    """Where features are kept for the next command that needs the same."""
    parser.add_argument(
        "--features", type=Path, default=Path("features"), help="folder that keeps features (default: features)"
    )


def add_supervision(parser: argparse.ArgumentParser) -> None:
    """What a classifier is trained and tested on."""
    parser.add_argument("--train", type=Path, help="training images: .beton or folder class/image (default: the run's)")
    parser.add_argument("--val", type=Path, help="held-out images of the same classes (default: the run's)")
    add_network(parser)
    add_images(parser)
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"), help="of the backbone")
    text = "of order, crops and the classifier's start (default: 0)"
    parser.add_argument("--seed", type=seed_number(), default=0, help=text)
    add_results(parser)


def add_resumable_training(group: argparse._ArgumentGroup, default_out: str) -> None:
    """How a classifier is trained on random crops, and where its state is kept."""
    text = f"least share of an image that a training crop takes (default: {LEAST_AREA})"
    share = number("--crop-area", float, above=0, most=1)
    group.add_argument("--crop-area", type=share, default=LEAST_AREA, metavar="SHARE", help=text)
    text = "how it is resized (default: bilinear, as published)"
    group.add_argument("--crop-interpolation", default="bilinear", choices=get_args(Interpolation), help=text)
    group.add_argument("--out", type=Path, help=f"folder of the state (default: {default_out} after the settings)")
    text = "save this often within an epoch (default: 10)"
    group.add_argument("--save-minutes", type=number("--save-minutes", float, least=0), default=10, help=text)
    text = "test every so many epochs (default: 0, at the end)"
    group.add_argument("--eval-every", type=number("--eval-every", least=0), default=0, help=text)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Where the result goes beside the screen."""
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result as JSON, too")
    parser.add_argument("--results", type=Path, metavar="PATH", help="append a row to this Markdown table, too")
