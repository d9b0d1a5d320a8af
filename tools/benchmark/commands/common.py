"""What the subcommands share: options, notes while they run, what follows a table, and the form of their JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from loaders.errors import UserError
from loaders.files import write_json


def require_positive(arguments, *names: str) -> dict:
    """The options of these names; refuses zero and less."""
    for name in names:
        if getattr(arguments, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive")
    return {name: getattr(arguments, name) for name in names}


def write_result(arguments, benchmark: str, **parts) -> None:
    """Writes what was measured where ``--json`` says, if it does, after when and on what it was."""
    if arguments.json:
        from loaders.environment import describe_environment

        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        about = {"benchmark": benchmark, "date": date, "surroundings": describe_environment()}
        write_json(arguments.json, about | parts)


def read_result(path: Path) -> dict:
    """A file of ``write_result``."""
    try:
        result = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no JSON'}") from error
    if not isinstance(result, dict) or not {"benchmark", "surroundings"} <= set(result):
        raise UserError(f"{path} is not a result of tools/bench.py: give a file that --json of one of its parts wrote")
    return result


def note(text: str) -> None:
    """Says what is going on, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def targets_as_json(targets: list) -> list[dict]:
    """The project's promises and what was measured."""
    return [{"what": t.what, "least": t.least, "measured": t.measured, "holds": t.holds} for t in targets]


def print_below(console, left_out: Sequence[str], targets: Sequence = ()) -> None:
    """What follows a table: who could not run and why, and the project's promises."""
    for contender in left_out:
        console.print(f"left out: {contender}", markup=False)  # a reason may hold brackets: '.[bench]'
    for target in targets:
        console.print(str(target))


def recipe_or_small_one(arguments, device: str):
    """The recipe that was named, or on a CPU a small network."""
    from fastintl.config import load
    from tools.benchmark.step import TINY

    small = TINY if device == "cpu" and arguments.rcfg is None else ()
    return load(arguments.rcfg, [*small, *arguments.overrides])


def add_timing_arguments(parser: argparse.ArgumentParser, rounds: int = 5) -> None:
    """Of the subcommands that time contenders in turn."""
    parser.add_argument("--json", type=Path, help="write every sample, what follows, and the environment to this file")
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"times that each contender is timed (default: {rounds})"
    )


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the subcommands that train."""
    parser.add_argument("--rcfg", type=Path, help="recipe (step and ranks without one, on a CPU: a small one)")
    add_timing_arguments(parser)
    parser.add_argument("--steps", type=int, default=10, help="steps of a round (default: 10)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
