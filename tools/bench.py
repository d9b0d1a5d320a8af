"""Measures speed, always as ratios within one run.

    python tools/bench.py loader --data data/imagenet_val.beton --json out.json

loader: images/s from pictures on disk to normalised crops, for every source that can run here, beside other ways
of making the same crops. Each contender has a process of its own, on one core and on all; they are timed in turn,
round after round, without start-up and compilation.

knn: queries/s of the exact nearest-neighbour search on the CPU, beside scikit-learn's, faiss-cpu's and the bare
matrix product, on random features.

probe: seconds to train linear heads on cached features: one, a sweep of 40 at once, the 40 one after another, and
others' ways, on random features.
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
    knn = commands.add_parser("knn", help="nearest-neighbour search on the CPU")
    knn.add_argument("--json", type=Path, help="write every time, the ratios and the surroundings to this file")
    knn.add_argument("--features", type=int, default=100_000, help="features to search in (default: 100000)")
    knn.add_argument("--queries", type=int, default=2048, help="features to search for (default: 2048)")
    knn.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    knn.add_argument("--k", type=int, default=5, help="neighbours (default: 5)")
    knn.add_argument("--rounds", type=int, default=5, help="times that each contender is timed (default: 5)")
    probe = commands.add_parser("probe", help="linear heads on cached features")
    probe.add_argument("--json", type=Path, help="write every time, the ratios and the surroundings to this file")
    probe.add_argument("--samples", type=int, default=20_000, help="features to learn from (default: 20000)")
    probe.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    probe.add_argument("--classes", type=int, default=10, help="default: 10")
    probe.add_argument("--epochs", type=int, default=2, help="in batches of 1000 (default: 2)")
    probe.add_argument("--rounds", type=int, default=5, help="times that each contender is timed (default: 5)")
    arguments = parser.parse_args()
    {"loader": bench_loader, "knn": bench_knn, "probe": bench_probe}[arguments.command](arguments)


def bench_knn(arguments: argparse.Namespace) -> None:
    import numpy as np

    from fastintl.benchmark import knn as bench
    from fastintl.evaluate.knn import MEMORY
    from loaders.benchmark.surroundings import surroundings

    shape = {name: getattr(arguments, name) for name in ("features", "queries", "channels", "k", "rounds")}
    if min(shape.values()) < 1 or arguments.k > arguments.features:
        raise UserError("--features, --queries, --channels, --k and --rounds must be positive, --k at most --features")
    rng = np.random.default_rng(0)
    features, queries = (
        rng.standard_normal((count, arguments.channels), np.float32)
        for count in (arguments.features, arguments.queries)
    )
    contenders = bench.contenders(features, queries, arguments.k, MEMORY)
    bench.compare(contenders, arguments.rounds)
    found = bench.targets(contenders)
    title = f"{arguments.k} nearest of {arguments.features:,} features of {arguments.channels} channels"
    bench.print_table(contenders, found, arguments.queries, title)
    if arguments.json:
        result = {
            "benchmark": "knn",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "surroundings": surroundings(),
            **shape,
            "contenders": bench.as_json(contenders),
            "targets": [{"what": t.what, "least": t.least, "measured": t.measured, "holds": t.holds} for t in found],
        }
        write_json(arguments.json, result)


def bench_probe(arguments: argparse.Namespace) -> None:
    import torch

    from fastintl.benchmark import probe as bench
    from loaders.benchmark.surroundings import surroundings

    shape = {name: getattr(arguments, name) for name in ("samples", "channels", "classes", "epochs", "rounds")}
    if min(shape.values()) < 1 or not 1 < arguments.classes <= arguments.samples:
        raise UserError("--samples, --channels, --epochs and --rounds must be positive, --classes 2 to --samples")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = bench.random_features(arguments.samples, arguments.channels, arguments.classes, device)
    contenders = bench.contenders(features, arguments.classes, arguments.epochs)
    bench.compare(contenders, arguments.rounds, device)
    size = f"{arguments.samples:,} features of {arguments.channels} channels, {arguments.classes} classes"
    bench.print_table(contenders, f"{arguments.epochs} epochs of {size}, {device.type}")
    if arguments.json:
        result = {
            "benchmark": "probe",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "surroundings": surroundings(),
            **shape,
            "contenders": [{"name": c.name, "missing": c.missing, "seconds": c.seconds} for c in contenders],
            "ratios": bench.ratios(contenders),
        }
        write_json(arguments.json, result)


def bench_loader(arguments: argparse.Namespace) -> None:
    import torch

    from fastintl.config import load
    from fastintl.data import multi_crop
    from loaders.benchmark import loader as bench
    from loaders.benchmark.surroundings import surroundings
    from loaders.sources import open_pictures

    if arguments.rounds < 1 or arguments.seconds <= 0 or arguments.batch_size < 1:
        raise UserError("--rounds, --seconds and --batch-size must be positive")
    pictures = open_pictures(arguments.data)
    recipe = multi_crop(load(arguments.rcfg, []).crops)
    cores, on_gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    groups = bench.contenders(cores, on_gpu)
    note = _note if sys.stderr.isatty() else _say_nothing
    device = "cuda" if on_gpu else "cpu"
    with bench.workload(arguments.data, recipe, arguments.batch_size, device, note) as work:
        bench.compare(work, groups, arguments.rounds, arguments.seconds, note)
    found = bench.targets(*groups[:2], cores)
    _print(groups, found, bench, cores)
    if arguments.json:
        result = {
            "benchmark": "loader",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "surroundings": surroundings(),
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


def _note(text: str) -> None:
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _say_nothing(text: str) -> None:
    pass


if __name__ == "__main__":
    main()
