"""A run's results: what ``summary.json`` holds, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastintl.config import Config
from fastintl.runs.clock import Clock
from loaders.terminal import open_console

_ROWS = {
    "chance": "chance",
    "raw_pixels": "raw pixels",
    "untrained": "untrained network",
    "trained": "trained network",
}
PROBES = {"linear_top1": "linear classifier", "quick_top1": "L-BFGS classifier"}


def summarise(metrics: list[dict[str, Any]], config: Config, step: int, clock: Clock) -> dict[str, Any]:
    """The results in the rows of ``metrics.jsonl``.

    Args:
        metrics: the rows.
        step: steps done.
        clock: the time spent training.

    Returns:
        ``name``, ``steps``, ``train_seconds`` (over all restarts, without evaluation), ``images_per_second`` (without
        the first step after a start; None where there was no other), ``loss`` (of the last log step), ``knn_top1``:
        accuracies as fractions, of what was measured, and ``probes``: likewise, of the classifiers.
    """
    last = {key: value for row in metrics for key, value in row.items() if isinstance(value, int | float)}
    scores = {name: last[f"knn_top1_{name}"] for name in _ROWS if f"knn_top1_{name}" in last}
    if "knn_top1" in last:
        scores["trained"] = last["knn_top1"]
    return {
        "name": config.name,
        "steps": step,
        "train_seconds": round(clock.total, 1),
        "images_per_second": clock.images_per_second and round(clock.images_per_second, 1),
        "loss": last.get("loss"),
        "knn_top1": scores,
        "probes": {key: last[key] for key in PROBES if key in last},
    }


def accuracies(scores: dict[str, float], k: int) -> str:
    """An evaluation in words: top-1 of k nearest neighbours and of each classifier."""
    names = {"knn_top1": f"{k}-nn accuracy", **PROBES}
    return ", ".join(f"{name} {scores[key]:.1%}" for key, name in names.items() if key in scores)


def print_table(summary: dict[str, Any], config: Config, folder: Path) -> None:
    """Prints the accuracies, then where the results are."""
    from rich import box
    from rich.table import Table

    console = open_console()
    if summary["knn_top1"]:
        table = Table("held-out images", box=box.SIMPLE_HEAD)
        table.add_column(f"{config.eval.k}-nn accuracy", justify="right")
        for name, score in summary["knn_top1"].items():
            table.add_row(_ROWS[name], f"{score:.1%}", style="bold" if name == "trained" else None)
        console.print(table)
    if summary["probes"]:
        console.print(f"{accuracies(summary['probes'], config.eval.k)}, on the trained network's features")
    rate = summary["images_per_second"]
    speed = f", {rate:,.0f} images/s" if rate else ""
    console.print(
        f"{summary['steps']:,} steps in {summary['train_seconds']:,.0f} s{speed}; results in {folder}", soft_wrap=True
    )
