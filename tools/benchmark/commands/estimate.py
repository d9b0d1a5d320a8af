"""Hours and GPU-hours of a recipe, and what bounds it, from rates that were measured; it refuses where none was.

    python tools/bench.py estimate --rcfg rcfgs/ep100.yaml --gpus 8
    python tools/bench.py estimate --rcfg rcfgs/ep100.yaml --gpus 8 --step step_32.json --loader loader.json
    python tools/bench.py estimate --rcfg rcfgs/ep100.yaml --gpus 8 --step-rate 500

A rate for 8 GPUs is 8 times that of one with an eighth of the batch (bench.py step … train.batch_size=32), which leaves
out what the GPUs wait for each other, or that of bench.py train under torchrun, which has it in it.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from loaders.errors import UserError
from loaders.files import write_json
from tools.benchmark.commands.common import read_result, require_positive

_MEASURED = "docs/benchmarks"
_PROJECT = Path(__file__).resolve().parents[3]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rcfg", type=Path, required=True, help="recipe")
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs, or of ranks on the CPU (default: 1)")
    parser.add_argument("--images", type=int, help="trained on (default: those of the public dataset)")
    parser.add_argument("--step", type=Path, nargs="+", metavar="JSON", help=f"of step or train (default: {_MEASURED})")
    parser.add_argument("--step-rate", type=float, metavar="R", help="images/s of one GPU with its share of the batch")
    parser.add_argument("--loader", type=Path, metavar="JSON", help="of loader, measured on the host of the GPUs")
    parser.add_argument("--json", type=Path, help="write the estimates to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")


def run(arguments: argparse.Namespace) -> None:
    from fastintl.config import load
    from tools.benchmark import estimate as bench

    require_positive(arguments, "gpus")
    config = load(arguments.rcfg, arguments.overrides)
    batch = config.train.batch_size
    if batch % arguments.gpus:
        raise UserError(f"a batch of {batch} images cannot be shared evenly by {arguments.gpus} GPUs")
    images = bench.images_of(config, arguments.images)
    host = bench.host_rate(arguments.loader, read_result(arguments.loader)) if arguments.loader else None
    rates = _rates(arguments, config)
    found = [bench.estimate(config, images, arguments.gpus, rate, host) for rate in rates]
    epochs = config.train.epochs
    print(f"{config.name}: {epochs} epochs of {images:,} images, {images * epochs:,} in all")
    for rate, one in zip(rates, found, strict=True):
        print(f"\n{arguments.gpus} x {rate.machine}   ({rate.source})")
        print(f"{one.images_per_second:>12,.0f} images/s   {one.hours:,.2f} hours   {one.gpu_hours:,.2f} GPU-hours")
        print(f"{'bounded by':>12} the {one.bottleneck}{f'; {one.other}' if one.other else ''}")
    if host is not None:
        print(f"\nloader: {host.images_per_second:,.0f} images/s   ({host.source})")
    elif not all(rate.with_loader for rate in rates):
        fastest = max(rate.images_per_second for rate in rates)
        print(f"\nThat a host feeds {fastest:,.0f} images/s is not known here: give --loader, measured on that host.")
    if arguments.json:
        rows = [{**asdict(rate), **asdict(one)} for rate, one in zip(rates, found, strict=True)]
        what = {"recipe": str(arguments.rcfg), "gpus": arguments.gpus, "images": images}
        write_json(arguments.json, {"benchmark": "estimate", **what, "rows": rows})


def _rates(arguments: argparse.Namespace, config) -> list:
    from tools.benchmark import estimate as bench

    if arguments.step_rate is not None:
        require_positive(arguments, "step_rate")
        return [bench.StepRate(arguments.gpus * arguments.step_rate, "GPU of your choice", "as --step-rate says")]
    paths = arguments.step or sorted((_PROJECT / _MEASURED).glob("*.json"))
    rates = bench.step_rates([(path, read_result(path)) for path in paths], config, arguments.gpus)
    if not rates:
        share, recipe = config.train.batch_size // arguments.gpus, arguments.rcfg
        where = ", ".join(map(str, arguments.step)) if arguments.step else _MEASURED
        raise UserError(
            f"no step of {recipe} with {share} images a GPU is measured in {where}: run python tools/bench.py step "
            f"--rcfg {recipe} train.batch_size={share} --json step_{share}.json on such a GPU and give --step "
            f"step_{share}.json, or give --step-rate"
        )
    return rates
