"""What a run folder holds: settings, metrics, results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastintl.config.options import parse_yaml
from fastintl.config.values import shown
from fastintl.runs.folder import RunFolder
from fastintl.runs.metrics_file import parse_metrics
from loaders.errors import UserError


class RunRecord:
    """What a run folder holds, of a finished run or one under way.

    Args:
        path: the folder.
        label: what the pages call the run; None is the folder's name.

    Attributes:
        tree: the resolved configuration, all values as text; it may be of another version, with other keys.
        config: the same as a dict from dotted key to value as a user would type it.
        rows: the rows of ``metrics.jsonl``.
        broken: numbers of the lines of ``metrics.jsonl`` that cannot be read.
        starts: the rows of ``starts.jsonl``.

    Raises:
        UserError: the folder holds no run.
    """

    def __init__(self, path: Path, label: str | None = None) -> None:
        self.folder = RunFolder(path)
        if not self.folder.config.is_file():
            raise UserError(f"{path} is no run: there is no {self.folder.config}; give a folder such as runs/demo")
        self.label = label or path.resolve().name
        text = self.folder.config.read_text(errors="replace")
        self.tree = parse_yaml(text, str(self.folder.config)) or {}
        self.config = dict(flat_keys(self.tree))
        self.rows, self.broken = parse_metrics(self.folder.metrics)
        self.starts = parse_metrics(self.folder.starts)[0]

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Epochs and values of a metric, where it is a finite number."""
        points = [
            (row["epoch"], row[key]) for row in self.rows if _is_number(row.get(key)) and _is_number(row.get("epoch"))
        ]
        return [epoch for epoch, _ in points], [value for _, value in points]

    def last(self, key: str) -> float | None:
        """The newest value of a metric, None if there is none."""
        return next((row[key] for row in reversed(self.rows) if _is_number(row.get(key))), None)

    @property
    def baselines(self) -> list[tuple[str, float]]:
        """Names and k-NN accuracies of what the trained network is compared with, as far as measured."""
        names = (("untrained", "untrained"), ("raw_pixels", "raw pixels"), ("chance", "chance"))
        found = [(name, self.last(f"knn_top1_{key}")) for key, name in names]
        return [(name, value) for name, value in found if value is not None]

    @property
    def step(self) -> int:
        """The newest step in the metrics."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def start(self) -> dict[str, Any]:
        """The record of the newest start; empty where there is none."""
        return self.starts[-1] if self.starts else {}

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results of a finished run; None while it is under way."""
        try:
            summary = json.loads(self.folder.summary.read_text())
            return summary if summary["steps"] >= self.start.get("last_step", 0) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    @property
    def images_per_second(self) -> float | None:
        """The rate of the whole run where it is finished, else the newest."""
        return (self.summary or {}).get("images_per_second") or self.last("images_per_second")


def flat_keys(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys of nested mappings with their values as a user would type them."""
    if not isinstance(tree, dict):
        yield prefix, shown(tree)
        return
    for key, value in tree.items():
        yield from flat_keys(value, f"{prefix}.{key}" if prefix else str(key))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
