"""The folder of a run, ``<out>/<name>/``, and the rule that a run resumes only under the settings it began with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastintl import config as configuration
from fastintl.config import Config
from loaders.errors import UserError
from loaders.files import write_text

# A run may move, use other decoders, be logged, saved or evaluated differently, or stop early, and is still the same.
_MAY_DIFFER = (
    "name",
    "out",
    "data.root",
    "data.train",
    "data.val",
    "data.source",
    "data.threads",
    "data.hardware_share",
    "data.max_bad",
    "data.verify",
    "train.max_steps",
    "train.device",
    "train.compile",
    "train.cuda_graphs",
    "train.save_minutes",
    "train.save_every",
    "train.keep_every",
    "eval.",
    "log.",
)


class RunFolder:
    """Names of a run's files.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.backbone = self.path / "backbone.pt"
        self.summary = self.path / "summary.json"
        self.quarantine = self.path / "quarantine.txt"
        self.nonfinite = self.path / "nonfinite.json"
        self.crops = self.path / "crops.png"
        self.starts = self.path / "starts.jsonl"
        self.report = self.path / "report.html"

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder of a run by its configuration."""
        return cls(Path(config.out) / config.name)

    def create(self, config: Config, start: dict[str, Any]) -> None:
        """Makes the folder, writes the resolved configuration, and adds a line to ``starts.jsonl``.

        Args:
            start: what to know of this start: from which step, where, with what.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, configuration.to_yaml(config))
            with open(self.starts, "a") as file:
                file.write(json.dumps(start) + "\n")
        except OSError as error:
            raise UserError(
                f"the run folder {self.path} cannot be written ({error.strerror}): set out= elsewhere"
            ) from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")


def refuse_other_settings(config: Config, saved: str, folder: Path) -> None:
    """Compares with the configuration in a checkpoint.

    Args:
        saved: the checkpoint's configuration as YAML.

    Raises:
        UserError: they differ in something that changes the result; names the keys.
    """
    changed = [
        key
        for key in configuration.differences(config, configuration.from_yaml(saved))
        if not key.startswith(_MAY_DIFFER)
    ]
    if changed:
        raise UserError(
            f"{folder} holds a run with another {', '.join(changed)}: give this run a name of its own (name=…), "
            "or remove the folder to start again"
        )
