"""Which bars a measurement's JSON has: one function a part of the benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tools.benchmark.bars import Bar

Result = Mapping[str, Any]
_CEILINGS = ("libjpeg-turbo", "decode and resize", "decode alone", "matrix product", "the products")
_OURS = {
    "loader": ("ffcv", "dali", "memory", "folder", "crops on the GPU"),
    "convert": ("ours",),
    "step": ("all together",),
    "knn": ("fastintl",),
    "probe": ("one head", "40 heads"),
}


def figure(result: Result) -> tuple[str, list[Bar]] | None:
    """Title and bars of a result; None for a part that has no image."""
    bars_of = _BARS.get(result["benchmark"])
    if bars_of is None:
        return None
    title, bars = bars_of(result)
    return title, [bar for bar in bars if bar.value]


def caption(result: Result) -> str:
    """The machine, and how the numbers came about."""
    where = result["surroundings"]
    machine = where["gpu"] or f"{where['cpu']}, {where['cores']} cores"
    return f"{machine}; medians of {result['rounds']} rounds; dashed: what bounds the others, where it was measured"


def _loader(result: Result) -> tuple[str, list[Bar]]:
    views = len(result["views"])
    return f"Images on disk to {views} crops, images/s", _rates(result, ("full path", "crops on the GPU"))


def _convert(result: Result) -> tuple[str, list[Bar]]:
    return "Folder to one file, images/s", _rates(result, ("conversion",))


def _rates(result: Result, groups: tuple[str, ...]) -> list[Bar]:
    """Of contenders that were timed on several numbers of cores."""
    rows = [row for row in result["contenders"] if row["group"] in groups]
    bars = [
        _bar(result, row["name"], row["median_images_per_second"], f"{row['cores']} core{'s' * (row['cores'] > 1)}")
        for row in sorted(rows, key=lambda row: row["cores"])
    ]
    return [replace(bar, label=f"fastintl: {bar.label}") if bar.kind == "ours" else bar for bar in bars]


def _step(result: Result) -> tuple[str, list[Bar]]:
    rows = result["contenders"]
    bars = [_bar(result, row["name"], row["images_per_second"], f"group {row['group']}") for row in rows]
    shares = [row["images_per_second"] / row["share_of_matrix_rate"] for row in rows if row["median_seconds"]]
    # The rate at which the step would run if it were one large matrix product.
    ceiling = [Bar("as one matrix product", shares[0], "ceiling", f"group {rows[0]['group']}")] if shares else []
    return "The training step on synthetic views, images/s", bars + ceiling


def _train(result: Result) -> tuple[str, list[Bar]]:
    with_loader, alone = (statistics.median(result[k]) for k in ("images_per_second", "synthetic_images_per_second"))
    return "Training, images/s", [Bar("with the loader", with_loader, "ours"), Bar("step alone", alone, "ceiling")]


def _knn(result: Result) -> tuple[str, list[Bar]]:
    title = f"{result['k']} nearest of {result['features']:,} features of {result['channels']} channels, queries/s"
    rows = [(row["name"], row["seconds"]) for row in result["contenders"] if row["seconds"]]
    return title, [_bar(result, name, result["queries"] / statistics.median(seconds)) for name, seconds in rows]


def _probe(result: Result) -> tuple[str, list[Bar]]:
    title = f"{result['epochs']} epochs of linear heads on {result['samples']:,} features, seconds"
    rows = [(row["name"], row["seconds"]) for row in result["contenders"] if row["seconds"]]
    return title, [_bar(result, name, statistics.median(seconds)) for name, seconds in rows]


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
