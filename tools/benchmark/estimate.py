"""Hours and GPU-hours of a recipe, and what bounds it, from rates that were measured; where none was, the least that
was counted (bench.py count); it refuses where there is neither.

    python tools/bench.py estimate --rcfg rcfgs/ep100.yaml --gpus 8
    python tools/bench.py estimate --rcfg rcfgs/ep100.yaml --gpus 8 --step step_32.json --loader loader.json
    python tools/bench.py estimate --rcfg rcfgs/ep100.yaml --gpus 8 --step-rate 500

Where crops grow, the rates are those at full size, and a stage is taken to be as much faster as it has fewer
operations, unless the loader bounds it.

A rate for 8 GPUs is 8 times that of one with an eighth of the batch (bench.py step … train.batch_size=32), which leaves
out what the GPUs wait for each other, or that of bench.py train under torchrun, which has it in it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from fastintl.config import Config, load
from fastintl.config.options import shown, values
from loaders.errors import UserError
from loaders.files import write_json

from .flops import StageWork, describe, mean_work, stages_work
from .options import add_overrides, require_positive, share_of_batch
from .results import read_result

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
MEASURED = Path(__file__).resolve().parents[2] / "docs/benchmarks"  # of a clone

Results = Mapping[Path, Mapping[str, Any]]  # what bench.py wrote, by file


@dataclass(frozen=True)
class StepRate:
    """A measured rate of training.

    Attributes:
        images_per_second: rate of all GPUs together.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rcfg", metavar="RECIPE", required=True, help="a file, or a name such as ep100")
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs, or of ranks on the CPU (default: 1)")
    parser.add_argument("--images", type=int, help="trained on (default: those of the public dataset)")
    parser.add_argument("--step", nargs="+", metavar="JSON", help="of step or train (default: docs/benchmarks)")
    parser.add_argument("--step-rate", type=float, metavar="R", help="images/s of one GPU with its share of the batch")
    parser.add_argument("--loader", type=Path, metavar="JSON", help="of loader, measured on the host of the GPUs")
    parser.add_argument("--json", type=Path, help="write the estimates to this file")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    require_positive(arguments, "gpus")
    words, gpus = arguments.step or [], arguments.gpus
    behind_step = [word for word in words if "=" in word and not Path(word).exists()]  # --step takes all that follows
    config = load(arguments.rcfg, [*behind_step, *arguments.overrides])
    share_of_batch(config, gpus)
    images = images_of(config, arguments.images)
    host = host_rate(arguments.loader, read_result(arguments.loader)) if arguments.loader else None
    if arguments.step_rate is not None:
        require_positive(arguments, "step_rate")
        rates = [StepRate(gpus * arguments.step_rate, "GPU of your choice", "as --step-rate says")]
    else:
        given = [Path(word) for word in words if word not in behind_step]
        rates = _measured_rates(given, config, gpus, arguments.rcfg)
    stages = stages_work(config) if config.crops.grow else []
    found = [estimate(config, images, gpus, rate, host, stages) for rate in rates]
    if arguments.json:
        rows = [{**asdict(rate), **asdict(one)} for rate, one in zip(rates, found, strict=True)]
        what = {"recipe": str(arguments.rcfg), "gpus": gpus, "images": images}
        what |= {"stages": [asdict(stage) for stage in stages], "work": mean_work(stages)} if stages else {}
        write_json(arguments.json, {"benchmark": "estimate", **what, "rows": rows})
    epochs = config.train.epochs
    print(f"{config.name}: {epochs} epochs of {images:,} images, {images * epochs:,} in all")
    if stages:
        print(describe(stages))
    for rate, one in zip(rates, found, strict=True):
        print(f"\n{gpus} x {rate.machine}   ({rate.source}{', at full size' if stages else ''})")
        print(f"{one.images_per_second:>12,.0f} images/s   {one.hours:,.2f} hours   {one.gpu_hours:,.2f} GPU-hours")
        print(f"{'bounded by':>12} the {one.bottleneck}{f'; {one.other}' if one.other else ''}")
    if host is not None:
        print(f"\nloader: {host.images_per_second:,.0f} images/s   ({host.source})")
    elif not all(rate.with_loader for rate in rates):
        fastest = max(rate.images_per_second for rate in rates) / min((stage.work for stage in stages), default=1)
        print(f"\nThat a host feeds {fastest:,.0f} images/s is not known here: give --loader, measured on that host.")


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


def step_rates(results: Results, config: Config, gpus: int) -> Iterator[StepRate]:
    """Every result that was measured for this recipe at this number of GPUs, or for one GPU's share of it."""
    for path, result in results.items():
        if result["benchmark"] not in ("step", "train"):
            continue
        measured = dict(_flat(result))
        machine = result["surroundings"]["gpu"] or result["surroundings"]["cpu"]
        if result["benchmark"] == "train" and result["ranks"] == gpus and _same_work(measured, config, 1):
            rate = statistics.median(result["images_per_second"])
            bottleneck = "loader" if statistics.median(result["data_wait"]) >= _LOADER_BOUND else "step"
            yield StepRate(rate, machine, f"{path.name}, with its loader", True, bottleneck)
        if result["benchmark"] == "step" and _same_work(measured, config, gpus):
            rates = {row["name"]: row["images_per_second"] for row in result["contenders"]}
            if rates.get(_OUR_STEP):
                yield StepRate(gpus * rates[_OUR_STEP], machine, path.name)


def counted_rates(results: Results, config: Config, gpus: int) -> Iterator[tuple[Path, dict[str, StepRate]]]:
    """The rates that no GPU can pass, by kind, from what ``bench.py count`` counted for this recipe and number of GPUs;
    one dictionary a file.

    Every GPU is asked for the same bytes and operations.
    """
    from .fake_gpu import GPUS

    for path, result in results.items():
        if result["benchmark"] != "count" or result["ranks"] != gpus:
            continue
        if not _same_work(dict(_flat(result)), config, 1):
            continue
        rates = {}
        for name, gpu in GPUS.items():
            parts = ((part["bytes_moved"], part["flops"], part["float32"]) for part in result["parts"])
            seconds = sum(gpu.least_seconds(*part) for part in parts)
            source = f"at the most: counted, not measured, {path.name}"
            rates[name] = StepRate(config.train.batch_size / seconds, name.upper(), source)
        yield path, rates


def host_rate(path: Path, result: Mapping[str, Any], cores: int | None = None) -> HostRate:
    """The fastest source of a loader's result, on so many cores, or on as many as were timed.

    Raises:
        UserError: it is no loader's result, or nothing could be timed.
    """
    rows = [row for row in result.get("contenders", ()) if row.get("function") == "decode_only"]
    rows = [row for row in rows if row["median_images_per_second"] and cores in (None, row["cores"])]
    if result["benchmark"] != "loader" or not rows:
        raise UserError(f"{path} holds no rate of a loader: give what tools/bench.py loader --json wrote")
    best = max(rows, key=lambda row: row["median_images_per_second"])
    what = f"{best['name']} on {best['cores']} cores of {result['surroundings']['cpu']}"
    return HostRate(best["median_images_per_second"], f"{path.name}: {what}")


def estimate(
    config: Config, images: int, gpus: int, step: StepRate, host: HostRate | None, stages: Sequence[StageWork] = ()
) -> Estimate:
    """Hours without evaluation and compilation; the exchange between GPUs counts where the rate was measured so.

    Args:
        stages: of crops that grow; none where they do not.
    """
    bottleneck, other = step.bottleneck or "step", ""
    if stages and bottleneck == "step":
        works = [(stage.share, stage.work) for stage in stages]
    else:
        works = [(1.0, 1.0)]
    rate = 1 / sum(share * work / step.images_per_second for share, work in works)
    if host is not None and not step.with_loader:
        feeds = host.images_per_second
        bottleneck, faster = ("loader", rate) if feeds < rate else ("step", feeds)
        rate = 1 / sum(share * max(work / step.images_per_second, 1 / feeds) for share, work in works)
        other = f"the {'step' if bottleneck == 'loader' else 'loader'} could do {faster:,.0f} images/s"
    batch = config.train.batch_size
    steps = images // batch * config.train.epochs
    hours = min(steps, config.train.max_steps or steps) * batch / rate / 3600
    return Estimate(rate, hours, gpus * hours, bottleneck, other)


def _measured_rates(given: Sequence[Path], config: Config, gpus: int, recipe: Path) -> list[StepRate]:
    """The rates in the given files, or in all of docs/benchmarks."""
    paths = given or sorted(MEASURED.glob("*.json"))
    results = {path: read_result(path) for path in paths}
    rates = list(step_rates(results, config, gpus)) or [
        rate for _, by_kind in counted_rates(results, config, gpus) for rate in by_kind.values()
    ]
    if not rates:
        share, where = share_of_batch(config, gpus), ", ".join(map(str, given)) or "docs/benchmarks"
        raise UserError(
            f"no step of {recipe} with {share} images a GPU is measured in {where}: run python tools/bench.py step "
            f"--rcfg {recipe} train.batch_size={share} --json step_{share}.json on such a GPU and give --step "
            f"step_{share}.json, or give --step-rate"
        )
    return rates


def _flat(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of the recipe that a result is of, and their values as words."""
    from fastintl.report.record import flat_keys

    return flat_keys(yaml.safe_load(result["config"]))


def _same_work(measured: Mapping[str, str], config: Config, gpus: int) -> bool:
    """Whether a measured step is one GPU's share of this recipe's. A key of a newer version had its default then."""
    default, mine = values(Config()), values(config)
    keys = [key for key in mine if key.startswith(("model.", "loss.")) or key == "crops.sizes"]
    same = all(measured.get(key, shown(default[key])) == shown(mine[key]) for key in keys)
    return same and int(measured["train.batch_size"]) * gpus == config.train.batch_size
