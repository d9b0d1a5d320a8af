"""The comparison as tables of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from loaders.terminal import open_console

WIDTH = 80


def show(part: str, found: dict[str, Any]) -> None:
    """Prints one part of the comparison."""
    console = open_console(width=WIDTH)
    for shown in _TABLES[part](found):
        console.print(shown)


def _steps(found: dict[str, Any]) -> Iterator[Table | Text | str]:
    table = _table("schedules of whole runs", "recipe", "steps", "peak rate", "rate off by", "momentum off by")
    for row in found["schedules"]:
        numbers = f"{row['steps']:,}", f"{row['peak']:g}", _small(row["lr"]), _small(row["momentum"])
        table.add_row(row["recipe"], *numbers)
    yield table
    for method in found["methods"]:
        columns = "step", "their loss", "ours off by", "theirs by", "allowed", "weights", "theirs by"
        table, near = _table(method["method"], *columns), method["contiguous"]
        for step, loss in enumerate(method["their_loss"]):
            names = "loss", "own_loss", "allowed", "weights", "own_weights"
            table.add_row(str(step + 1), f"{loss:.5f}", *(_small(near[name][step]) for name in names))
        yield table
        trained = (_small(method["channels_last"][name][-1]) for name in ("weights", "own_weights"))
        yield "  as we train, in channels_last, the weights after the last step: {}, theirs by {}".format(*trained)
        if method["loaded"] is not None:
            yield f"  a file that theirs has saved loads to features off by {_small(method['loaded'])}"
        yield "  as near as it must be" if method["holds"] else Text("  further off than allowed", "bold")
    apart = [row["recipe"] for row in found["schedules"] if not row["holds"]]
    yield f"  schedules that differ: {', '.join(apart) or 'none'}"


def _crops(found: dict[str, Any]) -> Iterator[Table | Text | str]:
    title = "of each kind the quantity furthest apart: means and Kolmogorov-Smirnov distances"
    table = _table(title, "quantity, view", "theirs", "ours", "apart", "theirs by", "by chance")
    for recipe, rows in found["recipes"].items():
        table.add_row(Text(recipe, "bold"))
        for row in rows["worst"]:
            means = f"{row['theirs']:.4g}", f"{row['ours']:.4g}"
            distances = (f"{row[name]:.3f}" if row[name] is not None else "" for name in ("distance", "own", "chance"))
            table.add_row(f"  {row['quantity']}, {row['view']}", *means, *distances)
    yield table
    table = _table("on purpose otherwise", "what", "size", "")
    for row in found["on_purpose"]:
        table.add_row(row["what"], f"{row['size']:.2g}", row["unit"])
    yield table


def _training(found: dict[str, Any]) -> Iterator[Table]:
    title = f"{found['recipe']} with {found['network']['arch']}: {found['epochs']} epochs of {found['images']:,} images"
    table = _table(title, "", "seed", "loss", "5-nn", "linear", "images/s")
    untrained = {run["seed"]: run["untrained"] for run in found["runs"] if "untrained" in run}
    for seed, accuracy in untrained.items():
        table.add_row("untrained", str(seed), "", f"{accuracy:.2%}", "", "")
    for run in found["runs"]:
        accuracies = f"{run['knn_top1']:.2%}", f"{run['linear_top1']:.2%}"
        table.add_row(
            run["whose"], str(run["seed"]), f"{run['loss']:.4f}", *accuracies, f"{run['images_per_second']:,.0f}"
        )
    yield table


def _evaluation(found: dict[str, Any]) -> Iterator[Table]:
    table = _table("accuracy by the authors' evaluation code and by ours", "protocol", "code of", "theirs", "ours")
    for row in found["protocols"]:
        table.add_row(row["protocol"], row["whose"], f"{row['theirs']:.2%}", f"{row['ours']:.2%}")
    yield table


_TABLES = {"steps": _steps, "crops": _crops, "training": _training, "evaluation": _evaluation}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number and column not in _WORDS else "left")
    return table


_WORDS: Sequence[str] = ("quantity, view", "code of", "what", "")


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"
