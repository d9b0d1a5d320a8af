"""Options that the evaluation tools share; importing this needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastintl.config import options as configfile
from fastintl.network.names import STEMS
from loaders.errors import UserError


def parse_with_recipe(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line behind the options of its recipe, ``--rcfg``, which it overrides.

    Args:
        words: of the command line; None takes the process's.

    Raises:
        UserError: the recipe cannot be read.
    """
    parser.add_argument("--rcfg", metavar="FILE", help="recipe of an evaluation, such as rcfgs/eval/knn_5.yaml")
    words = list(sys.argv[1:] if words is None else words)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--rcfg")
    recipe = early.parse_known_args(words)[0].rcfg
    return parser.parse_args([*(_options_of(recipe) if recipe else []), *words])


def _options_of(recipe: str) -> list[str]:
    """A file of ``option: value`` lines as words; ``true`` is an option without a value, ``false`` is left out."""
    try:
        tree = configfile.parse_yaml(Path(recipe).read_text(encoding="utf-8"), recipe) or {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{recipe}: cannot be read ({reason}); --rcfg takes a recipe of rcfgs/eval") from None
    if not isinstance(tree, Mapping) or not all(isinstance(value, str) for value in tree.values()):
        raise UserError(f"{recipe}: holds more than option: value lines; is it the recipe of a pretraining?")
    given = {key: value for key, value in tree.items() if value != "false"}
    return [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in given.items()]


def add_subject(parser: argparse.ArgumentParser) -> None:
    """How a backbone is loaded and shown images: what ``subject.from_arguments`` reads beside ``weights``."""
    add_network(parser)
    add_images(parser)
    parser.add_argument("--flip-average", action="store_true", help="mean of a view's and its mirror image's features")
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time, of all ranks (default: 256)")


def add_images(parser: argparse.ArgumentParser) -> None:
    """How images are read and cropped, and on what device."""
    parser.add_argument("--resize", type=int, metavar="PIXELS", help="shorter side (default: the run's, else 256)")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of the centre crop (default: the run's, else 224)")
    parser.add_argument("--source", default="auto", help="reader of the images, as data.source (default: auto)")
    parser.add_argument("--threads", type=int, default=0, help="decoding threads a rank (default: its share of cores)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Which network is in the file."""
    parser.add_argument("--arch", help="architecture (default: what the file says, else resnet50)")
    parser.add_argument("--stem", help=f"{', '.join(STEMS)} (default: what the file says, else imagenet)")
    parser.add_argument("--target", action="store_true", help="take the EMA copy of the backbone")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Where the result goes beside the screen."""
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result as JSON, too")
    parser.add_argument("--results", type=Path, metavar="PATH", help="append a row to this Markdown table, too")
