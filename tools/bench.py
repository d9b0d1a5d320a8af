"""Measures speed, always as ratios within one run.

    python tools/bench.py loader --data data/imagenet_val.beton --json out.json
    python tools/bench.py step --json out.json
    python tools/bench.py train --rcfg rcfgs/demo.yaml data.root=data/demo --json out.json

loader: images/s from pictures on disk to normalised crops, for every source that can run here, beside other ways
of making the same crops. Each contender has a process of its own, on one core and on all; they are timed in turn,
round after round, without start-up and compilation.

step: the training step on synthetic views: the authors' way, each of our changes to it alone, and all together; a
small network without a GPU. On a GPU, each at the whole recipe and at what one rank of eight has of it:

    python tools/bench.py step --rcfg rcfgs/ep100.yaml --json step_256.json
    python tools/bench.py step --rcfg rcfgs/ep100.yaml train.batch_size=32 --json step_32.json

train: training with the loader beside the same step on synthetic views, and the share of the time spent waiting for
pictures; under torchrun on several GPUs:

    python tools/bench.py train --rcfg rcfgs/ep100.yaml data.root=/path/to/imagenet --json train.json
    torchrun --nproc-per-node 8 tools/bench.py train --rcfg rcfgs/ep100.yaml data.root=/path/to/imagenet

ranks: how often several ranks meet in a step's BatchNorms and how long the step takes, with all views in lockstep and
view by view:

    torchrun --nproc-per-node 2 tools/bench.py ranks --json ranks.json
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import UserError, exit_on_user_error  # noqa: E402
from loaders.json_file import write_json  # noqa: E402


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    loader = commands.add_parser("loader", help="from pictures on disk to crops")
    loader.add_argument("--data", type=Path, required=True, help=".beton file or folder class/picture")
    loader.add_argument("--json", type=Path, help="write every sample, the medians and the surroundings to this file")
    loader.add_argument("--rcfg", type=Path, help="recipe whose crops are made (default: INTL's for ImageNet)")
    loader.add_argument("--rounds", type=int, default=5, help="times that each contender is timed (default: 5)")
    loader.add_argument("--seconds", type=float, default=1.5, help="length of a round (default: 1.5)")
    loader.add_argument("--batch-size", type=int, default=32, help="pictures in a batch (default: 32)")
    loader.set_defaults(bench=bench_loader)
    step = commands.add_parser("step", help="the training step on synthetic views")
    train = commands.add_parser("train", help="training with the loader, beside the step alone")
    ranks = commands.add_parser("ranks", help="the ranks' meetings in BatchNorm, under torchrun")
    for command, bench in ((step, bench_step), (train, bench_train), (ranks, bench_ranks)):
        command.add_argument("--rcfg", type=Path, help="recipe (step and ranks without one, on a CPU: a small one)")
        command.add_argument("--json", type=Path, help="write every sample and the surroundings to this file")
        command.add_argument("--rounds", type=int, default=5, help="times that each contender is timed (default: 5)")
        command.add_argument("--steps", type=int, default=10, help="steps of a round (default: 10)")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
        command.set_defaults(bench=bench)
    train.add_argument("--data", type=Path, help="short for data.train=")
    arguments = parser.parse_args()
    for name in ("rounds", "steps"):
        if getattr(arguments, name, 1) < 1:
            raise UserError(f"--{name} must be positive")
    arguments.bench(arguments)


def bench_loader(arguments: argparse.Namespace) -> None:
    import torch

    from fastintl.config import load
    from fastintl.data import multi_crop
    from loaders.benchmark import loader as bench
    from loaders.sources import open_pictures

    if arguments.seconds <= 0 or arguments.batch_size < 1:
        raise UserError("--seconds and --batch-size must be positive")
    pictures = open_pictures(arguments.data)
    recipe = multi_crop(load(arguments.rcfg, []).crops)
    cores, on_gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    groups = bench.contenders(cores, on_gpu)
    device = "cuda" if on_gpu else "cpu"
    with bench.workload(arguments.data, recipe, arguments.batch_size, device, _note) as work:
        bench.compare(work, groups, arguments.rounds, arguments.seconds, _note)
    found = bench.targets(*groups[:2], cores)
    _print(groups, found, bench, cores)
    if arguments.json:
        result = {
            **_origin("loader"),
            "pictures": len(pictures),
            "views": [spec.size for spec in recipe.views],
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "batch_size": arguments.batch_size,
            "contenders": bench.as_json(groups),
            "targets": [{"what": t.what, "least": t.least, "measured": t.measured, "holds": t.holds} for t in found],
        }
        write_json(arguments.json, result)


def _print(groups, found, bench, cores: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110, highlight=False)
    for title, group in zip(("decode, six crops, colour", "decode only", "crops on the GPU"), groups, strict=False):
        table = Table("images/s", *(f"on {n}" for n in sorted({1, cores})), "peak memory", title=title)
        for name in dict.fromkeys(c.name for c in group):
            rows = {c.cores: c for c in group if c.name == name}
            rates = [f"{r:,.0f}" if n in rows and (r := bench.rate(rows[n])) else "" for n in sorted({1, cores})]
            table.add_row(name, *rates, f"{max(c.peak_bytes for c in rows.values()) / 1e6:,.0f} MB")
        console.print(table)
        for contender in group:
            if contender.error:
                console.print(f"left out: {contender.name} on {contender.cores}: {contender.error}")
    for target in found:
        measured = "not measured" if target.measured is None else f"{target.measured:.2f}"
        verdict = {True: "holds", False: "MISSED", None: ""}[target.holds]
        promised = "" if target.least is None else f"promised {target.least:.2f}"
        console.print(f"{target.what:48} {measured:>12}   {promised:13}   {verdict}")


def bench_step(arguments: argparse.Namespace) -> None:
    import torch

    from fastintl.benchmark import step as bench
    from fastintl.config import to_yaml

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = _recipe_or_small_one(arguments, device.type)
    torch.backends.cudnn.benchmark = True
    groups, flops = bench.contenders(config, device), bench.step_flops(config)
    rates = [bench.compare(group, config, device, arguments.rounds, arguments.steps, _note) for group in groups]
    batch, model = config.train.batch_size, config.model
    rows = bench.as_json(groups, flops, rates, batch)
    _print_steps(rows, f"{model.arch}, batch {batch}, views {' '.join(map(str, config.crops.sizes))}, {device.type}")
    if arguments.json:
        sizes = {"rounds": arguments.rounds, "steps": arguments.steps, "flops_of_a_step": flops, "matrix_rates": rates}
        write_json(arguments.json, {**_origin("step"), **sizes, "config": to_yaml(config), "contenders": rows})


def _print_steps(rows: list[dict], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120, highlight=False)
    columns = ("step", "ms", "images/s", "times the first", "of the matrix rate", "peak memory", "first step")
    for number in sorted({row["group"] for row in rows}):
        table = Table(*columns, title=title)
        for row in (row for row in rows if row["group"] == number and row["median_seconds"]):
            memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f} GB"
            times = (f"{1000 * row['median_seconds']:,.1f}", f"{row['images_per_second']:,.0f}")
            ratios = (f"{row.get('times_the_baseline') or 0:.2f}", f"{row['share_of_matrix_rate']:.1%}")
            table.add_row(row["name"], *times, *ratios, memory, f"{row['first_step_seconds']:.1f} s")
        console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"left out: {row['name']}: {row['error']}")


def bench_train(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict
    from statistics import median

    from fastintl import distributed
    from fastintl.benchmark.train import end_to_end
    from fastintl.config import load, to_yaml

    data = [f"data.train={arguments.data}"] if arguments.data else []
    config = load(arguments.rcfg, [*data, *arguments.overrides])
    with distributed.start(config.train.device) as world:
        found = end_to_end(config, world, arguments.rounds, arguments.steps, _note)
        if not world.is_main:
            return
        print(f"with the loader   {median(found.images_per_second):>10,.1f} images/s   ({found.source})")
        print(f"synthetic views   {median(found.synthetic_images_per_second):>10,.1f} images/s")
        print(f"ratio             {found.ratio:>10.3f}")
        print(f"waiting for data  {median(found.data_wait):>10.1%}")
        print(f"first step        {found.first_step_seconds:>10.1f} s")
        if arguments.json:
            sizes = {"rounds": arguments.rounds, "steps": arguments.steps, "ranks": world.world_size}
            result = {**_origin("train"), **sizes, "config": to_yaml(config), **asdict(found), "ratio": found.ratio}
            write_json(arguments.json, result)


def bench_ranks(arguments: argparse.Namespace) -> None:
    from statistics import median

    from fastintl import distributed
    from fastintl.benchmark.ranks import compare_ranks
    from fastintl.config import to_yaml

    with distributed.start() as world:
        config = _recipe_or_small_one(arguments, world.device.type)
        found = compare_ranks(config, world, arguments.rounds, arguments.steps)
        if not world.is_main:
            return
        for name, way in found.items():
            print(f"{name:14}{way['collectives']:>6} all-reduces   {1000 * median(way['seconds']):>10,.1f} ms a step")
        if arguments.json:
            sizes = {"rounds": arguments.rounds, "steps": arguments.steps, "ranks": world.world_size}
            write_json(arguments.json, {**_origin("ranks"), **sizes, "config": to_yaml(config), "ways": found})


def _recipe_or_small_one(arguments: argparse.Namespace, device: str):
    from fastintl.benchmark.step import TINY
    from fastintl.config import load

    small = TINY if device == "cpu" and arguments.rcfg is None else ()
    return load(arguments.rcfg, [*small, *arguments.overrides])


def _origin(benchmark: str) -> dict:
    """What every result file begins with."""
    from loaders.surroundings import surroundings

    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"benchmark": benchmark, "date": date, "surroundings": surroundings()}


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
