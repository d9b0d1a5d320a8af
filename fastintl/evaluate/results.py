"""The result of an evaluation: a table on the screen, a JSON file, a row of a Markdown table."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from loaders.errors import writing
from loaders.files import write_json
from loaders.terminal import open_console

_COLUMNS = ("date", "task", "accuracy", "backbone", "sha256", "data", "settings", "versions")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute an evaluation."""
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
        data: paths of the images or of their features, by their part ("train", "val").
        backbone: the file of weights; None for a new network, and for features without one.
        settings: everything that changes the numbers, ``sha256`` of the file of weights among it.
        metrics: accuracies as fractions, by name.
        details: what else was found, as plain values; for the JSON file alone.
    """

    task: str
    data: Mapping[str, Path | str]
    backbone: Path | str | None
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the date and the versions of what computed them."""
        settings = dict(self.settings)
        return {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "task": self.task,
            "data": {part: str(path) for part, path in self.data.items()},
            "backbone": self.backbone and str(self.backbone),
            "sha256": settings.pop("sha256", None),
            "settings": settings,
            "metrics": dict(self.metrics),
            "versions": versions(),
            "details": dict(self.details),
        }


def write(result: Result, json: Path | None = None, results: Path | None = None) -> None:
    """Writes the result as JSON, and as one more row of a Markdown table.

    Args:
        json: file to write.
        results: table to append to; begun if it is not there.

    Raises:
        UserError: a file cannot be written.
    """
    values = result.as_json()
    if json is not None:
        write_json(json, values)
    if results is not None:
        cells = {
            **{column: _words(value) if isinstance(value, dict) else value or "" for column, value in values.items()},
            "date": values["date"][:10],
            "accuracy": ", ".join(f"{name} {value:.2%}" for name, value in result.metrics.items()),
            "sha256": (values["sha256"] or "")[:12],
        }
        lines = (" ".join(cells[column].replace("|", "\\|").splitlines()) for column in _COLUMNS)
        row = f"| {' | '.join(lines)} |\n"
        with writing(results), open(results, "a", encoding="utf-8", errors="surrogateescape") as file:
            # One write: runs that end together keep their rows.
            head = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n" if file.tell() == 0 else ""
            file.write(head + row)


def print_table(result: Result) -> None:
    """Prints the accuracies in per cent, and what they are accuracies of."""
    print_rows((result.task, "accuracy"), [(name, f"{value:.2%}") for name, value in result.metrics.items()])
    print(f"{result.backbone or 'features'} on {_words(result.data)}")


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]], bold: Sequence[str] | None = None) -> None:
    """Prints a table of text, numbers to the right, the row ``bold`` in bold."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(header):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row, style="bold" if row == bold else None)
    open_console().print(table)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
