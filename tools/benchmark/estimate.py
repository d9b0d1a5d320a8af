"""How long a recipe takes, from rates that were measured for it; where none was, there is no answer."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fastintl.config import Config
from fastintl.config.options import shown, values
from fastintl.report.record import flat_keys
from loaders.errors import UserError

# Images that are trained on in the public datasets and the demo.
IMAGES = {
    "imagenet": 1_281_167,
    "imagenet100": 126_689,
    "tiny-imagenet": 100_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 105_000,
    "demo": 4_800,
}
_OUR_STEP = "all together"  # among the contenders of bench.py step, the one that training takes
_LOADER_BOUND = 0.1  # share of the time that the step waits for images, from which on the loader is the bottleneck


@dataclass(frozen=True)
class StepRate:
    """A measured rate of training.

    Attributes:
        images_per_second: of all GPUs together.
        machine: what it was measured on.
        source: where the number stands.
        with_loader: whether images were loaded meanwhile, and by all these ranks at once.
        bottleneck: ``step`` or ``loader`` where the measurement tells.
    """

    images_per_second: float
    machine: str
    source: str
    with_loader: bool = False
    bottleneck: str | None = None


@dataclass(frozen=True)
class HostRate:
    """A measured rate of a host's loader: decoding alone, which is its share where the crops are cut on a GPU."""

    images_per_second: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """Hours of a run on the wall, and summed over its GPUs; ``bottleneck`` is step or loader, ``other`` a few words on
    what the other one could do."""

    images_per_second: float
    hours: float
    gpu_hours: float
    bottleneck: str
    other: str


def images_of(config: Config, given: int | None) -> int:
    """How many images an epoch draws from: as given, or the public dataset's.

    Raises:
        UserError: it is no public one, or smaller than a batch.
    """
    count = given or IMAGES.get(config.data.name)
    if count is None:
        raise UserError(f"how many images {config.data.name} has is not known here: give --images")
    if count < config.train.batch_size:
        raise UserError(f"{count} images are fewer than one batch of {config.train.batch_size}")
    return count


def step_rates(results: Sequence[tuple[Path, Mapping[str, Any]]], config: Config, gpus: int) -> list[StepRate]:
    """Every result that was measured for this recipe at this number of GPUs, or for one GPU's share of it."""
    found = []
    for path, result in results:
        if result["benchmark"] not in ("step", "train"):
            continue
        measured = dict(flat_keys(yaml.safe_load(result["config"])))
        machine = result["surroundings"]["gpu"] or result["surroundings"]["cpu"]
        if result["benchmark"] == "train" and result["ranks"] == gpus and _same_work(measured, config, 1):
            rate = statistics.median(result["images_per_second"])
            bottleneck = "loader" if statistics.median(result["data_wait"]) >= _LOADER_BOUND else "step"
            found.append(StepRate(rate, machine, f"{path.name}, with its loader", True, bottleneck))
        if result["benchmark"] == "step" and _same_work(measured, config, gpus):
            rates = {row["name"]: row["images_per_second"] for row in result["contenders"]}
            if rates.get(_OUR_STEP):
                found.append(StepRate(gpus * rates[_OUR_STEP], machine, path.name))
    return found


def host_rate(path: Path, result: Mapping[str, Any]) -> HostRate:
    """The fastest source of a loader's result, on as many cores as were timed.

    Raises:
        UserError: it is no loader's result, or nothing could be timed.
    """
    rows = [row for row in result.get("contenders", ()) if row.get("function") == "decode_only"]
    rows = [row for row in rows if row["median_images_per_second"]]
    if result["benchmark"] != "loader" or not rows:
        raise UserError(f"{path} holds no rate of a loader: give what tools/bench.py loader --json wrote")
    best = max(rows, key=lambda row: row["median_images_per_second"])
    cpu, cores = result["surroundings"]["cpu"], best["cores"]
    return HostRate(best["median_images_per_second"], f"{path.name}: {best['name']} on {cores} cores of {cpu}")


def estimate(config: Config, images: int, gpus: int, step: StepRate, host: HostRate | None) -> Estimate:
    """Hours without evaluation and compilation; the exchange between GPUs counts where the rate was measured so."""
    rate, bottleneck, other = step.images_per_second, step.bottleneck or "step", ""
    if host is not None and not step.with_loader:
        slower, faster = sorted((host.images_per_second, rate))
        bottleneck = "loader" if host.images_per_second < rate else "step"
        rate, other = slower, f"the {'step' if bottleneck == 'loader' else 'loader'} could do {faster:,.0f} images/s"
    batch = config.train.batch_size
    steps = images // batch * config.train.epochs
    hours = min(steps, config.train.max_steps or steps) * batch / rate / 3600
    return Estimate(rate, hours, gpus * hours, bottleneck, other)


def _same_work(measured: Mapping[str, str], config: Config, gpus: int) -> bool:
    """Whether a measured step is one GPU's share of this recipe's. A key of a newer version had its default then."""
    default, mine = values(Config()), values(config)
    keys = [key for key in mine if key.startswith(("model.", "loss.")) or key == "crops.sizes"]
    same = all(measured.get(key, shown(default[key])) == shown(mine[key]) for key in keys)
    return same and int(measured["train.batch_size"]) * gpus == config.train.batch_size
