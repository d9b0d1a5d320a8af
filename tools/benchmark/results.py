"""What follows a measurement: tables on the screen, ratios with what was promised of them, and a JSON file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.errors import UserError
from loaders.files import write_json
from loaders.terminal import open_console

from .contenders import Contender

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Target:
    """A ratio of two rates, and what the project promised of it.

    Attributes:
        what: whose rate is divided by whose.
        least: the ratio that was promised; None where it only tells where the time goes.
        measured: the median over the rounds, None where one of the two could not run.
    """

    what: str
    least: float | None
    measured: float | None

    @property
    def holds(self) -> bool | None:
        return None if self.measured is None or self.least is None else self.measured >= self.least

    def __str__(self) -> str:
        measured = "not measured" if self.measured is None else f"{self.measured:.2f}"
        return f"{self.what:48} {measured:>12}"

    def as_json(self) -> dict[str, Any]:
        return {"what": self.what, "least": self.least, "measured": self.measured, "holds": self.holds}


def print_results(tables: Sequence[Table], contenders: Sequence[Contender], targets: Sequence[Target] = ()) -> None:
    """The tables, then who could not run and why, then the targets."""
    console = open_console(width=120)
    for table in tables:
        console.print(table)
    for contender in contenders:
        if contender.error:
            cores = f" on {contender.settings['cores']}" if "cores" in contender.settings else ""
            console.print(f"left out: {contender.name}{cores}: {contender.error}")
    for target in targets:
        console.print(str(target))


def rate_table(title: str, contenders: Sequence[Contender], megabytes: float | None = None) -> Table:
    """images/s and memory of contenders that run on several numbers of cores, a row for each name.

    Args:
        megabytes: mean size of an image; None shows no MB/s.
    """
    from rich.table import Table

    units = [("images/s", 1, 0)] + [("MB/s", megabytes, 1)] * (megabytes is not None)
    counts = sorted({contender.settings["cores"] for contender in contenders})
    table = Table("", *(f"{unit} on {n}" for n in counts for unit, *_ in units), "peak memory", title=title)
    for name in dict.fromkeys(contender.name for contender in contenders):
        by_cores = {contender.settings["cores"]: contender for contender in contenders if contender.name == name}
        rates = [by_cores[n].median("images_per_second") if n in by_cores else None for n in counts]
        cells = [f"{rate * scale:,.{digits}f}" if rate else "" for rate in rates for _, scale, digits in units]
        peak = max(contender.largest("peak_bytes") or 0 for contender in by_cores.values())
        table.add_row(name, *cells, f"{peak / 1e6:,.0f} MB")
    return table


def rates_as_json(group: str, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """Rows of contenders that measure images/s."""
    return [
        contender.as_json("images_per_second", "cpu_seconds_per_image")
        | {
            "peak_bytes": contender.largest("peak_bytes") or 0,
            "group": group,
            "median_images_per_second": contender.median("images_per_second"),
        }
        for contender in contenders
    ]


def write_result(arguments: argparse.Namespace, benchmark: str, **parts: Any) -> None:
    """Writes what was measured where ``--json`` says, if it does, after when and in what environment that was."""
    if arguments.json:
        from loaders.environment import describe_environment

        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        where = {"benchmark": benchmark, "date": date, "surroundings": describe_environment()}
        write_json(arguments.json, {**where, **parts})


def read_result(path: Path) -> Mapping[str, Any]:
    """A file of ``write_result``."""
    try:
        result = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no JSON'}") from error
    if not isinstance(result, dict) or not {"benchmark", "surroundings"} <= set(result):
        raise UserError(f"{path} is not a result of tools/bench.py: give a file that --json of one of its parts wrote")
    return result
