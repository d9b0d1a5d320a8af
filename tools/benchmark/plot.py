"""Draws what the other parts measured, one SVG a file:

python tools/bench.py plot docs/benchmarks/*.json --out docs/figures
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .bars import Bar, draw
from .results import read_result
from .tradeoff_figure import draw as draw_tradeoff

Result = Mapping[str, Any]
_CEILINGS = ("libjpeg-turbo", "decode and resize", "decode alone", "our decoder", "matrix product", "the products")
_OURS = {
    "loader": ("ffcv", "dali", "memory", "folder", "crops on the GPU"),
    "convert": ("ours",),
    "step": ("all together",),
    "knn": ("fastintl",),
    "probe": ("one head", "40 heads"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON", help="what --json of another part wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder (default: docs/figures)")


def run(arguments: argparse.Namespace) -> None:
    for path in arguments.results:
        result = read_result(path)
        if result["benchmark"] == "tradeoff" and result["trainings"]:
            target = arguments.out / f"{path.stem}.svg"
            draw_tradeoff(result["settings"], result["trainings"], target)
            print(target)
            continue
        bars_of = _BARS.get(result["benchmark"])
        title, bars = bars_of(result) if bars_of else ("", [])
        bars = [bar for bar in bars if bar.value]
        if not bars:
            print(f"{path}: nothing to draw")
            continue
        target = arguments.out / f"{path.stem}.svg"
        draw(bars, title, _caption(result), target)
        print(target)


def _caption(result: Result) -> str:
    """The machine, and how the numbers came about."""
    where = result["surroundings"]
    machine = where["gpu"] or f"{where['cpu']}, {where['cores']} cores"
    return f"{machine}; medians of {result['rounds']} rounds; dashed: what bounds the others, where it was measured"


def _loader(result: Result) -> tuple[str, list[Bar]]:
    views = len(result["views"])
    return f"Images on disk to {views} crops, images/s", _rates(result, ("full path", "crops on the GPU"))


def _convert(result: Result) -> tuple[str, list[Bar]]:
    return "Folder to one file, images/s", _rates(result, ("conversion",))


def _rates(result: Result, groups: Sequence[str]) -> list[Bar]:
    """Bars of contenders that were timed on several numbers of cores."""
    rows = [row for row in result["contenders"] if row["group"] in groups]
    bars = [
        _bar(result, row["name"], row["median_images_per_second"], f"{row['cores']} core{'s' * (row['cores'] > 1)}")
        for row in sorted(rows, key=lambda row: row["cores"])
    ]
    return [replace(bar, label=f"fastintl: {bar.label}") if bar.kind == "ours" else bar for bar in bars]


def _step(result: Result) -> tuple[str, list[Bar]]:
    rows = result["contenders"]
    bars = [_bar(result, row["name"], row["images_per_second"], f"group {row['group']}") for row in rows]
    measured = [row for row in rows if row["median_seconds"] and row["share_of_matrix_rate"]]
    shares = [row["images_per_second"] / row["share_of_matrix_rate"] for row in measured]
    # The rate at which the step would run if it were one large matrix product.
    ceiling = [Bar("as one matrix product", shares[0], "ceiling", f"group {rows[0]['group']}")] if shares else []
    return "The training step on synthetic views, images/s", bars + ceiling


def _train(result: Result) -> tuple[str, list[Bar]]:
    with_loader, alone = (statistics.median(result[k]) for k in ("images_per_second", "synthetic_images_per_second"))
    return "Training, images/s", [Bar("with the loader", with_loader, "ours"), Bar("step alone", alone, "ceiling")]


def _knn(result: Result) -> tuple[str, list[Bar]]:
    title = f"{result['k']} nearest of {result['features']:,} features of {result['channels']} channels, queries/s"
    return title, [replace(bar, value=result["queries"] / bar.value) for bar in _seconds(result)]


def _probe(result: Result) -> tuple[str, list[Bar]]:
    return f"{result['epochs']} epochs of linear heads on {result['samples']:,} features, seconds", _seconds(result)


def _seconds(result: Result) -> list[Bar]:
    rows = [row for row in result["contenders"] if row["seconds"]]
    return [_bar(result, row["name"], statistics.median(row["seconds"])) for row in rows]


def _bar(result: Result, name: str, value: float | None, group: str = "") -> Bar:
    if name.startswith(_CEILINGS):
        kind = "ceiling"
    else:
        kind = "ours" if name.startswith(_OURS[result["benchmark"]]) else "other"
    return Bar(name, value or 0.0, kind, group)


_BARS: dict[str, Callable[[Result], tuple[str, list[Bar]]]] = {
    "loader": _loader,
    "convert": _convert,
    "step": _step,
    "train": _train,
    "knn": _knn,
    "probe": _probe,
}
