"""Trainings from scratch on CIFAR-10 images, by the authors' program and by ours, with one small network."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders.files import write_json
from tools.fidelity.checkouts import COMMANDS, RECIPES, Checkouts
from tools.fidelity.images import Part
from tools.fidelity.their_process import ask, run

_RECIPE, _BATCH, _WIDTH, _FEWEST_EPOCHS = "cifar10", 128, 512, 3
_NETWORK = {"arch": "resnet8", "stem": "small", "zero_init_residual": False}


@dataclass(frozen=True)
class Trainings:
    """Trains either side; what has been trained in ``folder`` before is not trained again, or goes on."""

    checkouts: Checkouts
    train: Part
    held_out: Part
    folder: Path

    def theirs(self, epochs: int, seed: int, evaluated: bool = True) -> dict[str, Any]:
        """A training by the authors' program.

        Returns:
            ``loss``, the mean of the last epoch; ``images_per_second``, of the median epoch; where it is evaluated,
            the accuracies ``knn_top1`` and ``linear_top1``.
        """
        folder = self.folder / f"theirs_seed{seed}_{epochs}_epochs"
        result = folder / "result.json"
        if not result.exists():
            write_json(result, self._ask(folder, epochs, seed, evaluated))
        answer = json.loads(result.read_text())
        images = len(self.train.labels) // _BATCH * _BATCH
        rate = images / statistics.median(answer.pop("seconds"))
        return {**answer, "loss": answer["loss"][-1], "images_per_second": rate}

    def ours(self, epochs: int, seed: int, evaluated: bool = True) -> dict[str, Any]:
        """The same by ours, in the run folder ``our_run``; ``untrained`` is the 5-nn accuracy before the training."""
        words = [f"model.{key}={str(value).lower()}" for key, value in _NETWORK.items()]
        words += [f"model.projector=[{_WIDTH},{_WIDTH},{_WIDTH}]", f"train.batch_size={_BATCH}", "train.device=cpu"]
        words += [f"train.epochs={epochs}", f"seed={seed}", f"data.train={self.train.path}"]
        if evaluated:
            words += [f"data.val={self.held_out.path}", "eval.every=0", "eval.baselines=true", "eval.probes=[linear]"]
        folder = self.our_run(epochs, seed)
        words += [f"out={folder.parent}", f"name={folder.name}"]
        run("our training", "fastintl.train", ["--rcfg", str(RECIPES / f"{_RECIPE}.yaml"), *words])
        summary = json.loads((folder / "summary.json").read_text())
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        loss = statistics.mean(row["loss"] for row in rows if "loss" in row and row["epoch"] > epochs - 1)
        found = {"loss": loss, "images_per_second": summary["images_per_second"]}
        if evaluated:
            scores = summary["knn_top1"]
            found |= {"knn_top1": scores["trained"], "untrained": scores["untrained"], **summary["probes"]}
        return found

    def our_run(self, epochs: int, seed: int) -> Path:
        return self.folder / f"ours_seed{seed}_{epochs}_epochs"

    def any_of_ours(self) -> Path | None:
        """A run of ours that is finished, the longest."""
        runs = [path.parent for path in self.folder.glob("ours_*/summary.json")]
        return max(runs, key=lambda run: json.loads((run / "summary.json").read_text())["steps"], default=None)

    def epochs_within(self, minutes: float, seeds: int) -> int:
        """How many epochs all the trainings of both sides have within so many minutes; known from then on."""
        plan = self.folder / f"{seeds}_seeds_in_{minutes:g}_minutes.json"
        if not plan.exists():
            seconds = sum(
                len(self.train.labels) / side(1, 0, False)["images_per_second"] for side in (self.theirs, self.ours)
            )
            epochs = max(int(60 * minutes / (seeds * seconds)), _FEWEST_EPOCHS)
            write_json(plan, {"epochs": epochs, "seconds_of_an_epoch_of_both": seconds})
        return json.loads(plan.read_text())["epochs"]

    def _ask(self, folder: Path, epochs: int, seed: int, evaluated: bool) -> dict[str, Any]:
        command = COMMANDS[_RECIPE]
        options = {"--epochs": epochs, "--bs": _BATCH, "--projection_size": _WIDTH, "--emb": _WIDTH, "--seed": seed}
        options |= {"--workers": len(os.sched_getaffinity(0)), "--eval_every": epochs if evaluated else epochs + 1}
        words = (str(word) for pair in options.items() for word in pair)
        job = {
            "script": str(self.checkouts.file(command.whose, command.script).absolute()),
            "arguments": [*command.arguments(self.checkouts), *words],
            "train": (self.train.pixels, self.train.labels),
            "held_out": (self.held_out.pixels, self.held_out.labels),
            **_NETWORK,
        }
        return ask("from_scratch", "train", job, folder)


def compare_trainings(trainings: Trainings, minutes: float, seeds: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Trains both sides, one seed after the other, within about so many minutes.

    Returns:
        ``epochs``, ``images``, and ``runs``: a row each with ``whose``, ``seed`` and what ``Trainings`` returns.
    """
    note("two trainings of one epoch, for the time that they take")
    epochs, runs = trainings.epochs_within(minutes, seeds), []
    for seed in range(seeds):
        for whose, side in (("theirs", trainings.theirs), ("ours", trainings.ours)):
            note(f"{epochs} epochs from scratch: {whose}, seed {seed}")
            runs.append({"whose": whose, "seed": seed, **side(epochs, seed)})
    return {
        "recipe": _RECIPE,
        "network": _NETWORK,
        "batch_size": _BATCH,
        "images": len(trainings.train.labels),
        "epochs": epochs,
        "runs": runs,
    }
