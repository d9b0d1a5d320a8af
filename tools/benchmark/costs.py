"""What recipes cost at the least, as a Markdown table: GPU-hours, memory of a GPU, and the cores that decode for all of
them. Every GPU's time is the least that bench.py count counted, so a run takes longer; nothing of it is measured but
the rate of one core.

    python tools/bench.py costs ep100 ep800_two_crop cifar10
    python tools/bench.py costs in100 --counts count_in100.json --loader loader.json
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.errors import UserError

from .estimate import MEASURED, HostRate, counted_rates, estimate, host_rate, images_of
from .results import read_result

if TYPE_CHECKING:
    from fastintl.config import Config


@dataclass(frozen=True)
class Cost:
    """What one recipe costs on a number of GPUs.

    Attributes:
        gpu_hours: at the least, by kind of GPU; None where its memory does not hold a step.
        step_bytes: of a GPU's memory: weights, gradients, momenta, target, and what the backward pass wants.
        cores: that decode as fast as such GPUs could take images, by kind; None where pixels are kept in memory.
    """

    recipe: str
    gpus: int
    gpu_hours: Mapping[str, float | None]
    step_bytes: float
    cores: Mapping[str, int | None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="files, or names such as ep100")
    text = "of bench.py count (default: those of docs/benchmarks)"
    parser.add_argument("--counts", nargs="+", type=Path, metavar="JSON", help=text)
    text = "of bench.py loader, one core among others (default: docs/benchmarks/loader_cpu.json)"
    parser.add_argument("--loader", type=Path, default=MEASURED / "loader_cpu.json", metavar="JSON", help=text)


def run(arguments: argparse.Namespace) -> None:
    counts = {path: read_result(path) for path in arguments.counts or sorted(MEASURED.glob("count_*.json"))}
    for path, result in counts.items():
        if result["benchmark"] != "count":
            raise UserError(f"{path} holds no counts: give what tools/bench.py count --json wrote")
    core = host_rate(arguments.loader, read_result(arguments.loader), cores=1)
    for line in table(list(costs(arguments.recipes, counts, core))):
        print(line)


def costs(recipes: Sequence[str], counts: Mapping[Path, Mapping[str, Any]], core: HostRate) -> Iterator[Cost]:
    """Each recipe on each number of GPUs for which its step was counted.

    Raises:
        UserError: a recipe's step was not counted.
    """
    from fastintl.config import load

    ranks = sorted({result["ranks"] for result in counts.values()})
    for recipe in recipes:
        config = load(recipe, [])
        found = [one for gpus in ranks for one in _cost(str(recipe), config, gpus, counts, core)]
        if not found:
            raise UserError(f"no step of {recipe} was counted: python tools/bench.py count --rcfg {recipe} --json FILE")
        yield from found


def _cost(
    recipe: str, config: Config, gpus: int, counts: Mapping[Path, Mapping[str, Any]], core: HostRate
) -> Iterator[Cost]:
    from .fake_gpu import GPUS
    from .flops import stages_work

    stages = stages_work(config) if config.crops.grow else []
    for path, rates in counted_rates(counts, config, gpus):
        result = counts[path]
        step_bytes = result["weight_bytes"] + result["total"]["kept_bytes"]
        hours, cores = {}, {}
        for name, rate in rates.items():
            one = estimate(config, images_of(config, None), gpus, rate, None, stages)
            fits = step_bytes < GPUS[name].memory_bytes
            hours[name] = one.gpu_hours if fits else None
            decodes = fits and config.data.source != "memory"
            cores[name] = math.ceil(one.images_per_second / core.images_per_second) if decodes else None
        yield Cost(recipe, gpus, hours, step_bytes, cores)


def table(found: Sequence[Cost]) -> Iterator[str]:
    """As Markdown; a dash is a step that does not fit, or no core that has to decode."""
    kinds = list(found[0].gpu_hours)
    names = [kind.upper() for kind in kinds]
    heads = ["recipe", "GPUs", *(f"{name}-hours" for name in names), "GB a GPU", *(f"cores, {name}" for name in names)]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for cost in found:
        hours = [_cell(cost.gpu_hours[kind]) for kind in kinds]
        cores = [_cell(cost.cores[kind]) for kind in kinds]
        cells = [cost.recipe, str(cost.gpus), *hours, f"{cost.step_bytes / 1e9:.1f}", *cores]
        yield f"| {' | '.join(cells)} |"


def _cell(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:,.1f}" if number < 10 and number != int(number) else f"{number:,.0f}"
