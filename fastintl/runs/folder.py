"""The folder of a run, ``<out>/<name>/``: what lies where in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastintl.config import Config
from loaders.errors import UserError
from loaders.files import write_text


class RunFolder:
    """Names of a run's files.

    Args:
        path: where the folder is.
        checkpoints: where its checkpoints are; None is ``checkpoints/`` in it.
    """

    def __init__(self, path: Path, checkpoints: Path | None = None) -> None:
        self.path = path
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = checkpoints or self.path / "checkpoints"
        self.backbone = self.path / "backbone.pt"
        self.summary = self.path / "summary.json"
        self.quarantine = self.path / "quarantine.txt"
        self.nonfinite = self.path / "nonfinite.json"
        self.crops = self.path / "crops.png"
        self.starts = self.path / "starts.jsonl"
        self.report = self.path / "report.html"
        self.neighbours = self.path / "neighbours.json"
        self.neighbours_page = self.path / "neighbours.html"

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder of a run by its configuration."""
        return cls(Path(config.out) / config.name)

    def create(self, config: str, start: dict[str, Any]) -> None:
        """Makes the folder, writes the resolved configuration, and adds a line to ``starts.jsonl``.

        Args:
            config: as YAML.
            start: what to know of this start: from which step, where, with what.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, config)
            with open(self.starts, "a") as file:
                file.write(json.dumps(start) + "\n")
        except OSError as error:
            raise UserError(
                f"the run folder {self.path} cannot be written ({error.strerror or error}): set out= elsewhere"
            ) from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")
