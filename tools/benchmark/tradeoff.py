"""Accuracy against compute: trains a recipe at several settings and seeds, and lays their accuracy beside the images
that they saw, their counted operations and their seconds.

    python tools/bench.py tradeoff --rcfg rcfgs/demo.yaml --minutes 60 --json tradeoff.json --figure tradeoff.svg
    python tools/bench.py tradeoff --rcfg rcfgs/cifar10.yaml --data data/cifar10 --images 10000 --minutes 60 \\
        --out runs/tradeoff_cifar10 --json cifar10.json train.epochs=20 model.arch=resnet8 model.stem=small

The settings are constant size for all of the recipe's epochs and for fewer, crops that grow, and constant size for as
few epochs as take the operations of crops that grow: the cheaper way that those must beat. All settings of a seed come
before the next seed. A training is a run of its own in --out, with the recipe's schedule drawn over its epochs; the
same command again goes on where --minutes, Ctrl-C or a kill ended it, and trains nothing twice. With --at-once small
networks share a GPU that each alone would leave idle; a training that had company has no seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.errors import UserError
from loaders.startup import fork_server
from loaders.terminal import open_console

from .options import add_overrides, require_positive
from .results import write_result

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from fastintl.config import Config

SCORES = {"knn_top1": "k-NN", "linear_top1": "linear"}
COSTS = {"images": "images seen", "flops": "operations", "seconds": "seconds"}
_STOPPED = (75, 130)  # how fastintl.train ends after it saved its state for a signal


@dataclass(frozen=True)
class Setting:
    """What is trained with every seed.

    Attributes:
        kind: ``constant`` size, ``growing`` crops, or ``equal``: constant size for the operations of growing ones.
        epochs: of the training.
        grow: the value of crops.grow; none at constant size.
    """

    kind: str
    epochs: int
    grow: tuple[float, int] | None = None

    @property
    def name(self) -> str:
        """As its runs' folders begin."""
        if self.grow is None:
            return f"constant_{self.epochs}"
        share, until = self.grow
        return f"growing_{self.epochs}_from_{share:g}_until_{until}"

    @property
    def words(self) -> list[str]:
        """The keys that make it."""
        return [f"train.epochs={self.epochs}", f"crops.grow=[{','.join(f'{n:g}' for n in self.grow or ())}]"]


@dataclass(frozen=True)
class Training:
    """A finished training: accuracies as fractions, and what it took (``seconds`` without evaluation; None where
    others ran beside it)."""

    setting: str
    seed: int
    knn_top1: float
    linear_top1: float
    images: int
    flops: float
    seconds: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rcfg", metavar="RECIPE", required=True, help="a file, or a name such as demo")
    text = "images: folders train/ and val/ or test/, .beton files, or public files (default: the recipe's data.root)"
    parser.add_argument("--data", type=Path, metavar="PATH", help=text)
    parser.add_argument("--images", type=int, metavar="N", help="train on the first N, as many of each class")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each setting (default: 5)")
    text = "shares of the recipe's epochs at constant size, the first one is compared (default: 1,0.8,0.6)"
    parser.add_argument("--constant", type=_shares, default=(1.0, 0.8, 0.6), metavar="S,S,...", help=text)
    text = "shares of the recipe's epochs with crops that grow, the first one is compared (default: 1)"
    parser.add_argument("--growing", type=_shares, default=(1.0,), metavar="S,S,...", help=text)
    text = "share of the sides at the start, and of the epochs until full size (default: 0.625,0.7)"
    parser.add_argument("--grow", type=_shares, default=(0.625, 0.7), metavar="S,S", help=text)
    parser.add_argument("--minutes", type=float, help="stop after so many, to go on another time (default: no limit)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="trainings side by side (default: 1)")
    text = "folder of the runs (default: runs/tradeoff)"
    parser.add_argument("--out", type=Path, default=Path("runs/tradeoff"), metavar="FOLDER", help=text)
    parser.add_argument("--json", type=Path, help="write what there is to this file, after every training")
    parser.add_argument("--figure", type=Path, metavar="SVG", help="and draw it")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    require_positive(arguments, "seeds", "at_once", *(["minutes"] if arguments.minutes is not None else []))
    if len(arguments.grow) != 2 or max(arguments.grow) >= 1:
        raise UserError("--grow takes two shares, each more than 0 and less than 1, such as 0.625,0.7")
    from .flops import stages_work

    deadline = math.inf if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    words = [*arguments.overrides, *_data_words(arguments), "eval.every=0", "eval.probes=[linear]"]
    words += [f"out={arguments.out}"]
    settings = settings_of(arguments, words)
    work = {setting: stages_work(_config(arguments, words, setting, 0)) for setting in settings}
    every = {
        (setting, seed): _config(arguments, words, setting, seed)
        for seed in range(arguments.seeds)
        for setting in settings
    }

    def finished() -> list[Training]:
        found = [
            _result(setting, seed, config, [(one.share, one.flops) for one in work[setting]])
            for (setting, seed), config in every.items()
            if _is_finished(config)
        ]
        _write(arguments, settings, found)
        return found

    commands = {
        config: ["--rcfg", arguments.rcfg, *words, *setting.words, f"seed={seed}", f"name={config.name}"]
        for (setting, seed), config in every.items()
        if not _is_finished(config)
    }
    _train(commands, arguments.at_once, deadline, finished)
    _print(arguments, settings, finished())


def settings_of(arguments: argparse.Namespace, words: Sequence[str]) -> list[Setting]:
    """What is trained, those that are compared first; no two with the same epochs and growth."""
    from fastintl.config import load

    from .flops import mean_work, stages_work

    epochs = load(arguments.rcfg, words).train.epochs
    share, part = arguments.grow
    constant = [Setting("constant", max(1, round(epochs * length))) for length in arguments.constant]
    growing = []
    for length in (max(1, round(epochs * length)) for length in arguments.growing):
        if length < 2:
            raise UserError(f"--growing: crops cannot grow in {length} epoch of {epochs}: set train.epochs to more")
        growing.append(Setting("growing", length, (share, min(length - 1, max(1, round(length * part))))))
    work = mean_work(stages_work(_config(arguments, words, growing[0], 0)))
    equal = Setting("equal", max(1, round(growing[0].epochs * work)))
    wanted: dict[str, Setting] = {}
    for setting in (constant[0], growing[0], equal, *constant[1:], *growing[1:]):
        wanted.setdefault(setting.name, setting)
    return list(wanted.values())


def summary_of(settings: Sequence[Setting], found: Sequence[Training]) -> list[dict[str, Any]]:
    """A row a setting with a finished training: how many there are, and of every score and cost the mean and the
    standard deviation over the seeds (None for one; a cost is None where no training of the setting has it)."""
    rows = []
    for setting in settings:
        own = [asdict(training) for training in found if training.setting == setting.name]
        if own:
            row: dict[str, Any] = {**asdict(setting), "name": setting.name, "seeds": len(own)}
            for key in (*SCORES, *COSTS):
                values = [training[key] for training in own if training[key] is not None]
                spread = statistics.stdev(values) if len(values) > 1 else None
                row[key] = {"mean": statistics.fmean(values), "std": spread} if values else None
            rows.append(row)
    return rows


def differences(settings: Sequence[Setting], found: Sequence[Training]) -> list[dict[str, Any]]:
    """The first growing setting beside each of constant size, over the seeds that both have: of each score the mean
    difference and its standard error (None for one seed), as fractions."""
    growing = next(setting for setting in settings if setting.grow)
    scores = {(one.setting, one.seed): asdict(one) for one in found}
    rows = []
    for other in settings:
        seeds = [seed for name, seed in scores if name == growing.name and (other.name, seed) in scores]
        if other.grow or not seeds:
            continue
        row: dict[str, Any] = {"of": growing.name, "to": other.name, "kind": other.kind, "seeds": len(seeds)}
        for key in SCORES:
            apart = [scores[growing.name, seed][key] - scores[other.name, seed][key] for seed in seeds]
            error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else None
            row[key] = {"mean": statistics.fmean(apart), "standard_error": error}
        rows.append(row)
    return rows


def _shares(text: str) -> tuple[float, ...]:
    shares = tuple(map(float, text.split(",")))
    if not all(0 < share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text}: each share must be more than 0 and at most 1")
    return shares


def _data_words(arguments: argparse.Namespace) -> list[str]:
    """Where the images are; with --images the first of them, written to --out."""
    from fastintl.config import load
    from fastintl.data import find
    from loaders.sources import open_images

    from .first_images import write_first_images

    words, root = [], arguments.data
    if root is not None:
        trees = [root / name for name in ("train", "val", "test") if (root / name).is_dir()]
        words = [f"data.train={trees[0]}", f"data.val={trees[1]}"] if len(trees) > 1 else [f"data.root={root}"]
    config = load(arguments.rcfg, [*arguments.overrides, *words])
    train, held_out = find(config, "train"), find(config, "val")
    if held_out is None:
        raise UserError(f"{train} has no held-out images beside it, by which accuracy is measured: set data.val")
    if arguments.images is not None:
        require_positive(arguments, "images")
        path = arguments.out / f"train_{arguments.images}.beton"
        write_first_images(open_images(train), arguments.images, path)
        words += [f"data.train={path}", f"data.val={held_out}"]
    return words


def _config(arguments: argparse.Namespace, words: Sequence[str], setting: Setting, seed: int) -> Config:
    from fastintl.config import load

    config = load(arguments.rcfg, [*words, *setting.words, f"seed={seed}"])
    return replace(config, name=f"{setting.name}_seed{seed}")


def _is_finished(config: Config) -> bool:
    """Whether the run of a configuration has its results.

    Raises:
        UserError: its folder holds the results of another configuration.
    """
    from fastintl.config import from_yaml
    from fastintl.config.options import differences
    from fastintl.runs.folder import RunFolder

    folder = RunFolder.of(config)
    if not folder.summary.exists():
        return False
    other = differences(config, from_yaml(folder.config.read_text(), str(folder.config)), "result")
    if other:
        raise UserError(f"{folder.path} holds a run with another {', '.join(other)}: give another --out")
    return json.loads(folder.summary.read_text())["steps"] == _last_start(folder.starts)["last_step"]


def _last_start(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text().splitlines()[-1])


def _train(
    commands: Mapping[Config, Sequence[str]], at_once: int, deadline: float, on_end: Callable[[], object]
) -> None:
    """Trains runs in turn, or goes on with them, so many side by side, until the last has ended or the deadline came.

    Args:
        commands: the words of every run's command.
        on_end: called after each that has ended.

    Raises:
        UserError: a training failed.
    """
    waiting, running = deque(commands), {}
    try:
        while (waiting or running) and time.monotonic() < deadline:
            while waiting and len(running) < at_once:
                config = waiting.popleft()
                print(f"training {config.name}", flush=True)
                running[_start(config, commands[config])] = config
                if len(running) > 1:
                    for one in running.values():
                        _beside(one, "at_once").touch()
            time.sleep(0.05)
            for process in [one for one in running if not one.is_alive()]:
                config = running.pop(process)
                if process.exitcode in _STOPPED:
                    return
                if process.exitcode:
                    log = _beside(config, "log")
                    told = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
                    raise UserError(told[-1].removeprefix("error: ") if told else f"a training failed: see {log}")
                on_end()
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def _start(config: Config, words: Sequence[str]) -> BaseProcess:
    """Starts a training in a process of its own, the fork of one that has imported what takes seconds each time."""
    log = _beside(config, "log")
    log.parent.mkdir(parents=True, exist_ok=True)
    process = fork_server("fastintl.training.pretraining").Process(target=_training, args=(list(map(str, words)), log))
    process.start()
    return process


def _training(words: list[str], log: Path) -> None:
    """``python -m fastintl.train`` with these words, as a command of its own: Ctrl-C comes to the process that started
    it, which then stops it."""
    os.setsid()
    with open(log, "ab") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    sys.orig_argv = [sys.executable, "-m", "fastintl.train", *words]  # which the run notes
    from fastintl.train import main

    main(words)


def _beside(config: Config, ending: str) -> Path:
    """A file beside a run's folder: ``log``, or ``at_once``, an empty one that says that others ran with it."""
    return Path(config.out) / f"{config.name}.{ending}"


def _result(setting: Setting, seed: int, config: Config, stages: Sequence[tuple[float, float]]) -> Training:
    """What a finished run has reached.

    Args:
        stages: of each stage the share of the epochs and the operations of a step.

    Raises:
        UserError: an accuracy is not among its results.
    """
    from fastintl.runs.folder import RunFolder

    folder = RunFolder.of(config)
    summary = json.loads(folder.summary.read_text())
    scores = {"knn_top1": summary["knn_top1"].get("trained"), **summary["probes"]}
    if missing := [key for key in SCORES if scores.get(key) is None]:
        raise UserError(f"{folder.path} has no {' and no '.join(missing)}: remove the folder to train it again")
    flops = summary["steps"] * sum(share * flops for share, flops in stages)
    images = summary["steps"] * config.train.batch_size
    seconds = None if _beside(config, "at_once").exists() else summary["train_seconds"]
    return Training(setting.name, seed, *(scores[key] for key in SCORES), images, flops, seconds)


def _write(arguments: argparse.Namespace, settings: Sequence[Setting], found: Sequence[Training]) -> None:
    """The JSON file, and the figure."""
    from fastintl.config import load, to_yaml

    from .tradeoff_figure import draw

    rows = {"settings": summary_of(settings, found), "differences": differences(settings, found)}
    what = {"config": to_yaml(load(arguments.rcfg, arguments.overrides)), "seeds": arguments.seeds}
    what |= {"data": str(arguments.data), "images": arguments.images, "wanted": [one.name for one in settings]}
    write_result(arguments, "tradeoff", **what, **rows, trainings=[asdict(training) for training in found])
    if arguments.figure and found:
        draw(rows["settings"], [asdict(training) for training in found], arguments.figure)


def _print(arguments: argparse.Namespace, settings: Sequence[Setting], found: Sequence[Training]) -> None:
    from rich.table import Table

    console, rows = open_console(width=120), summary_of(settings, found)
    table = Table("setting", "seeds", *COSTS.values(), *(f"{name}, %" for name in SCORES.values()), title="accuracy")
    for row in rows:
        seconds = f"{row['seconds']['mean']:,.0f}" if row["seconds"] else "not alone"
        costs = (f"{row['images']['mean']:,.0f}", f"{row['flops']['mean']:.3g}", seconds)
        table.add_row(row["name"], str(row["seeds"]), *costs, *(_percent(row[key], "std") for key in SCORES))
    console.print(table)
    console.print(
        "of several seeds: accuracies +- their standard deviation, differences +- their standard error", style="dim"
    )
    for row in differences(settings, found):
        apart = ", ".join(f"{name} {_percent(row[key], 'standard_error', '+')}" for key, name in SCORES.items())
        kind = " (equal operations)" if row["kind"] == "equal" else ""
        console.print(f"{row['of']} less {row['to']}{kind}: {apart} points over {row['seeds']} seeds")
    left = arguments.seeds * len(settings) - len(found)
    if left:
        console.print(f"{left} of {left + len(found)} trainings are left: the same command goes on")


def _percent(value: Mapping[str, float | None], spread: str, sign: str = "") -> str:
    apart = f" +- {100 * value[spread]:.2f}" if value[spread] is not None else ""
    return f"{100 * value['mean']:{sign}.2f}{apart}"
