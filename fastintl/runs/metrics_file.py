"""``metrics.jsonl``: what a run measured, a JSON object a line, each with its ``step``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loaders.errors import UserError
from loaders.files import write_text


class MetricsFile:
    """Appends rows to the file. A disk that is full or gone delays them and does not stop the run.

    Args:
        path: the file.
        step: where the run resumes; what a killed run wrote after it is dropped, for it will be written again.
        warn: gets one sentence whenever writing begins to fail.

    Raises:
        UserError: the file cannot be written at the start.
    """

    def __init__(self, path: Path, step: int, warn: Callable[[str], None]) -> None:
        self.path, self._warn = path, warn
        self._waiting: list[dict[str, Any]] = []
        self._failed = False
        lines = [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
        try:
            write_text(path, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path} cannot be written ({reason}): make room, or set out= elsewhere") from error

    def write(self, **values: Any) -> None:
        """Appends a row, and before it the rows that could not be written earlier."""
        self._waiting.append(values)
        try:
            _append(self.path, "".join(json.dumps(row) + "\n" for row in self._waiting).encode())
        except OSError as error:
            if not self._failed:
                self._warn(
                    f"{self.path} cannot be written ({error.strerror or error}): training goes on, and the rows are "
                    "kept in memory until it can"
                )
            self._failed = True
            return
        self._waiting, self._failed = [], False

    def rows(self) -> list[dict[str, Any]]:
        """All rows, with those not yet written."""
        return read_metrics(self.path) + self._waiting


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a line that cannot be read, such as one that a kill cut short, is left out."""
    return parse_metrics(path)[0]


def parse_metrics(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of a ``metrics.jsonl``, and the numbers (from 1) of the lines that cannot be read."""
    rows, broken = [], []
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):  # every row is an object with a step
                raise TypeError
            rows.append(row)
        except (ValueError, TypeError, KeyError, RecursionError):
            broken.append(number)
    return rows, broken


def _append(path: Path, data: bytes) -> None:
    """Appends all of ``data`` or nothing. Opened each time, so that a folder that was replaced is found."""
    with open(path, "ab", buffering=0) as file:
        end, written = file.tell(), 0
        try:
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            if written:
                os.ftruncate(file.fileno(), end)
            raise
