"""What an evaluation found and what made it so: a table on the screen, a JSON file, a row of a Markdown table."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from loaders.errors import UserError
from loaders.files import write_json

_COLUMNS = ("date", "task", "accuracy", "backbone", "sha256", "data", "settings", "versions")


def versions() -> dict[str, str]:
    """Versions of what computes an evaluation."""
    found = {"python": platform.python_version()}
    for package in ("fastintl", "torch", "torchvision", "numpy", "numba", "pycocotools"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass  # fastintl itself, used without being installed
    return found


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        task: what was done, in a few words: "k-NN", "linear probe".
        data: the images, a path or folder of features by role ("train", "val").
        backbone: the file of weights; None for features without one.
        sha256: that file's checksum.
        settings: everything that changes the numbers.
        metrics: accuracies as fractions, by name.
        versions: of the packages that computed them.
        details: what else was found, plain values for the JSON file alone.
    """

    task: str
    data: Mapping[str, str]
    backbone: str | None
    sha256: str | None
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    versions: Mapping[str, str] = field(default_factory=versions)
    details: Mapping[str, Any] = field(default_factory=dict)


def write(result: Result, json: Path | None = None, results: Path | None = None) -> None:
    """Writes the result as JSON, and as one more row of a Markdown table.

    Args:
        json: file to write.
        results: table to append to; begun if it is not there.

    Raises:
        UserError: a file cannot be written.
    """
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if json is not None:
        write_json(json, {"date": date, **asdict(result)})
    if results is not None:
        try:
            results.parent.mkdir(parents=True, exist_ok=True)
            with open(results, "a") as file:  # appended in one write: runs that end together keep their rows
                head = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n" if file.tell() == 0 else ""
                file.write(head + _row(result, date))
        except OSError as error:
            raise UserError(f"{results} cannot be written: {error.strerror}") from error


def print_table(result: Result) -> None:
    """Prints the accuracies in per cent, and what they are of."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(result.task, box=box.SIMPLE_HEAD)
    table.add_column("accuracy", justify="right")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.2%}")
    console.print(table)
    console.print(f"{result.backbone or 'features'} on {_words(result.data)}", soft_wrap=True)


def _row(result: Result, date: str) -> str:
    cells = {
        "date": date[:10],
        "task": result.task,
        "accuracy": ", ".join(f"{name} {value:.2%}" for name, value in result.metrics.items()),
        "backbone": result.backbone or "",
        "sha256": (result.sha256 or "")[:12],
        "data": _words(result.data),
        "settings": _words(result.settings),
        "versions": _words(result.versions),
    }
    return "| " + " | ".join(cells[column].replace("|", "\\|") for column in _COLUMNS) + " |\n"


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
