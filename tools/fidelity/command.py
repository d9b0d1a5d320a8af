"""What ``tools/against_authors.py`` does: the parts of the comparison, each shown and written when it is done."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from loaders.environment import describe_environment
from loaders.files import write_json
from tools.fidelity import augmentation, evaluation, images, on_purpose, tables
from tools.fidelity.checkouts import Checkouts
from tools.fidelity.from_scratch import Trainings, compare_trainings
from tools.fidelity.schedules import compare_schedules
from tools.fidelity.steps import METHODS, compare_steps

_PHOTOGRAPHS = 1200


def run(arguments: argparse.Namespace, checkouts: Checkouts) -> bool:
    """Compares; returns whether the first steps and the schedules agree, as far as they are among the parts."""
    comparison = Comparison(arguments, checkouts)
    agree = True
    for part in arguments.parts:
        found = getattr(comparison, part)()
        note("")
        tables.show(part, found)
        if arguments.json:
            _write(arguments.json, part, found, checkouts)
        if part == "steps":
            agree = all(row["holds"] for row in [*found["schedules"], *found["methods"]])
    return agree


class Comparison:
    """The parts, each a method that returns plain values."""

    def __init__(self, arguments: argparse.Namespace, checkouts: Checkouts) -> None:
        self.arguments, self.checkouts = arguments, checkouts
        self.train, self.held_out = images.cifar(arguments.data, arguments.images, arguments.out / "images")
        folder = arguments.out / f"from_scratch_{arguments.images}_images"
        self.trainings = Trainings(checkouts, self.train, self.held_out, folder)

    def steps(self) -> dict[str, Any]:
        """(a) The schedules of every recipe, and the first steps of every method."""
        note("schedules")
        found: dict[str, Any] = {"schedules": compare_schedules(self.checkouts), "methods": []}
        for method in METHODS:
            note(f"first steps, {method.name}")
            found["methods"].append(compare_steps(method, self.checkouts, self.train.path))
        return found

    def crops(self) -> dict[str, Any]:
        """(b) The same images through both augmentations."""
        given = dict.fromkeys(augmentation.SMALL, list(self.train.pixels))
        photographs = []
        if self.arguments.photographs:
            photographs = images.photographs(self.arguments.photographs, _PHOTOGRAPHS)
            given |= dict.fromkeys(augmentation.LARGE, photographs)
        recipes = {}
        for recipe, some in given.items():
            note(f"augmentation, {recipe}")
            rows = augmentation.compare_augmentation(recipe, self.checkouts, some)
            recipes[recipe] = {"worst": augmentation.worst(rows), "rows": rows}
        note("what is otherwise on purpose")
        return {"recipes": recipes, "on_purpose": on_purpose.measure(self.train, photographs)}

    def evaluation(self) -> dict[str, Any]:
        """(d) The protocols of evaluation."""
        note("evaluation protocols")
        run = self.trainings.any_of_ours()
        protocols = evaluation.compare_on_features(self.checkouts, self.train, self.held_out, run)
        rows = [*protocols, *evaluation.compare_on_images(self.checkouts, self.train, self.held_out)]
        return {"features_of": run.name if run else "an untrained network", "protocols": rows}

    def training(self) -> dict[str, Any]:
        """(c) Trainings from scratch."""
        return compare_trainings(self.trainings, self.arguments.minutes, self.arguments.seeds, note)


def note(text: str) -> None:
    """Says on a terminal what is going on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _write(path: Path, part: str, found: dict[str, Any], checkouts: Checkouts) -> None:
    """Puts a part into the file, and leaves those of other commands in it."""
    parts = json.loads(path.read_text()).get("parts", {}) if path.exists() else {}
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    surroundings = describe_environment()
    # The file is for other readers, to whom the folders of this machine say nothing.
    surroundings["command"] = [Path(word).name if word.startswith("/") else word for word in surroundings["command"]]
    about = {
        "date": date,
        "surroundings": surroundings,
        "authors": checkouts.revisions(),
        "threads": torch.get_num_threads(),
    }
    parts[part] = {**about, **found}
    # Each part has its own; the last one's stands where every result in docs/benchmarks has them.
    write_json(path, {"benchmark": "against_authors", "surroundings": surroundings, "parts": parts})
