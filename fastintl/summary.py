"""A run's results: what ``summary.json`` holds, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastintl.config import Config

_ROWS = {
    "chance": "chance",
    "raw_pixels": "raw pixels",
    "untrained": "untrained network",
    "trained": "trained network",
}


def summarise(metrics: list[dict[str, Any]], config: Config, step: int, seconds: float) -> dict[str, Any]:
    """The results in the rows of ``metrics.jsonl``.

    Args:
        metrics: the rows.
        step: steps done.
        seconds: spent training, over all restarts, without evaluation.

    Returns:
        ``name``, ``steps``, ``train_seconds``, ``images_per_second``, ``loss`` (of the last log step) and
        ``knn_top1``: accuracies as fractions, of what was measured.
    """
    last = {key: value for row in metrics for key, value in row.items()}
    scores = {name: last[f"knn_top1_{name}"] for name in _ROWS if f"knn_top1_{name}" in last}
    if "knn_top1" in last:
        scores["trained"] = last["knn_top1"]
    return {
        "name": config.name,
        "steps": step,
        "train_seconds": round(seconds, 1),
        "images_per_second": round(step * config.train.batch_size / max(seconds, 1e-9), 1),
        "loss": last.get("loss"),
        "knn_top1": scores,
    }


def print_table(summary: dict[str, Any], config: Config, folder: Path) -> None:
    """Prints the accuracies, then where the results are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if summary["knn_top1"]:
        table = Table("held-out pictures", box=box.SIMPLE_HEAD)
        table.add_column(f"{config.eval.k}-nn accuracy", justify="right")
        for name, score in summary["knn_top1"].items():
            table.add_row(_ROWS[name], f"{score:.1%}", style="bold" if name == "trained" else None)
        console.print(table)
    console.print(
        f"{summary['steps']:,} steps in {summary['train_seconds']:,.0f} s, "
        f"{summary['images_per_second']:,.0f} images/s; results in {folder}",
        soft_wrap=True,
    )
