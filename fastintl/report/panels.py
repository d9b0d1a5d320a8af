"""The charts of a page, of one run or of several in one chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastintl.report import chart
from fastintl.report.chart import Level, Line
from fastintl.report.numbers import compact, percent, short_percent
from fastintl.report.record import RunRecord

_COLOURS = 8
_SMALLEST_DRAWN = 1e-10  # eigenvalue: further down there is only rounding


@dataclass(frozen=True)
class Panel:
    """A chart with its title, its newest value (of one run only) and a sentence that explains it."""

    title: str
    body: str
    latest: str = ""
    note: str = ""


def colour(i: int) -> str:
    """The style of the i-th run."""
    return f"s{i % _COLOURS}"


def loss(runs: Sequence[RunRecord]) -> Panel:
    return _metric(runs, "loss", "Loss", "Of single batches.", compact)


def loss_parts(run: RunRecord) -> Panel | None:
    """The terms of the loss; None where the loss tells none."""
    names = {"loss_alignment": "alignment", "loss_trace": "trace loss"}
    lines = [Line(name, *run.series(key), f"s{n}") for n, (key, name) in enumerate(names.items())]
    if not any(line.x for line in lines):
        return None
    note = "Their sum is the loss: how far views of an image are apart, and how far from white they are."
    return Panel("Parts of the loss", chart.draw(lines, name="parts of the loss", until=_until([run])), note=note)


def gradient_norm(run: RunRecord) -> Panel | None:
    """The gradient's length; None where it was not measured."""
    if run.last("gradient_norm") is None:
        return None
    return _metric([run], "gradient_norm", "Gradient norm", "Of all weights together, before the step.", compact, 0.0)


def learning_rate(runs: Sequence[RunRecord]) -> Panel:
    return _metric(runs, "lr", "Learning rate", "", compact, low=0.0)


def accuracy(runs: Sequence[RunRecord]) -> Panel:
    """k-NN accuracy; of one run also the baselines."""
    baselines = runs[0].baselines if len(runs) == 1 else []
    levels = [Level(f"{name} {percent(value)}", value, f"level dash{n}") for n, (name, value) in enumerate(baselines)]
    title = f"{runs[0].config.get('eval.k', 'k')}-nn accuracy"
    note = "Of held-out images, by the backbone's features."
    return _metric(runs, "knn_top1", title, note, percent, low=0.0, levels=levels, extra="dots", one="trained")


def effective_rank(runs: Sequence[RunRecord]) -> Panel:
    """Effective rank: of one run before and after whitening, of several after it."""
    limits = {(run.last("possible_rank"), run.last("collapse_limit")) for run in runs}
    possible, collapse = limits.pop() if len(limits) == 1 else (None, None)  # other batches and losses have others
    levels = []
    if possible is not None:
        levels.append(Level(f"possible: {possible:.0f}", possible, "level dash1"))
    if collapse is not None:
        levels.append(Level(f"collapse: below {collapse:.3g}", collapse, "level alarm"))
    note = "Directions that the embedding fills: exp of the entropy of the eigenvalues' shares."
    if len(runs) > 1:
        return _metric(
            runs, "effective_rank_whitened", "Effective rank", f"{note} After whitening.", compact, 0.0, levels=levels
        )
    lines = [
        Line("after whitening", *runs[0].series("effective_rank_whitened"), "s0"),
        Line("before", *runs[0].series("effective_rank"), "s1"),
    ]
    body = chart.draw(lines, levels, name="effective rank", until=_until(runs), low=0.0)
    return Panel("Effective rank", body, _latest(runs, "effective_rank_whitened", compact), note)


def eigenvalues(run: RunRecord) -> tuple[Panel, Panel]:
    """The spectrum over the epochs before and after whitening, on one scale."""
    before, after = _fan(run, "before"), _fan(run, "after")
    drawn = [value for line in (*before, *after) for value in line.y if value > 0]
    low = max(min(drawn, default=0.1) / 1.3, _SMALLEST_DRAWN)
    ends = {"low": low, "high": 1.3 * max(drawn, default=1.0)}
    panels = []
    for lines, title, key, note in (
        (before, "Eigenvalues before whitening", "condition_number", "Of the covariance, in units of their mean"),
        (after, "Eigenvalues after whitening", "condition_number_whitened", "Whitening drives them towards 1"),
    ):
        body = chart.draw(lines, name=title, until=_until([run]), log=True, labels_at_ends=True, **ends)
        condition = run.last(key)
        known = "" if condition is None else f"; condition number {compact(condition)}"
        panels.append(Panel(title, body, note=f"{note}{known}. Lines are ranks, the 1st the largest."))
    return tuple(panels)


def throughput(runs: Sequence[RunRecord]) -> Panel:
    note = "Of all ranks, without the first step and evaluations."
    return _metric(runs, "images_per_second", "Images/s", note, compact, low=0.0)


def data_wait(runs: Sequence[RunRecord]) -> Panel:
    note = "Share of the time spent waiting for images."
    return _metric(runs, "data_wait", "Data-wait", note, percent, low=0.0)


def _metric(
    runs: Sequence[RunRecord],
    key: str,
    title: str,
    note: str,
    number: Callable[[float], str],
    low: float | None = None,
    *,
    levels: Sequence[Level] = (),
    extra: str = "",
    one: str = "",
) -> Panel:
    """A line a run; ``one`` is what a single run's line is called."""
    labels = [one] if one and len(runs) == 1 else [run.label for run in runs]
    lines = [
        Line(label, *run.series(key), f"{colour(i)} {extra}")
        for i, (label, run) in enumerate(zip(labels, runs, strict=True))
    ]
    tick = short_percent if number is percent else number
    body = chart.draw(lines, levels, name=title, until=_until(runs), low=low, number=tick)
    return Panel(title, body, _latest(runs, key, number), note)


def _until(runs: Sequence[RunRecord]) -> float:
    """The newest epoch of all runs."""
    return max((row.get("epoch", 0.0) for run in runs for row in run.rows), default=0.0)


def _latest(runs: Sequence[RunRecord], key: str, number: Callable[[float], str]) -> str:
    value = runs[0].last(key) if len(runs) == 1 else None
    return "" if value is None else number(value)


def _fan(run: RunRecord, which: str) -> list[Line]:
    """Lines of the eigenvalues of rank 1, 4, 16 and so on, of the middle and of the last, over the epochs."""
    rows = [row for row in run.rows if "spectrum" in row]
    if not rows:
        return []
    ranks = rows[-1]["spectrum"]["ranks"]
    rows = [row for row in rows if row["spectrum"]["ranks"] == ranks]
    last = ranks[-1]
    wanted = [*(4**k for k in range(8) if 4**k < 0.4 * last), last / 2, last]
    nearest = dict.fromkeys(min(ranks, key=lambda rank: abs(rank - goal)) for goal in wanted)
    lines = []
    for n, rank in enumerate(nearest):
        values = [_eigenvalue(row, which, ranks.index(rank)) for row in rows]
        lines.append(Line(_ordinal(rank), [row["epoch"] for row in rows], values, f"r{min(n, 5)}", shade=True))
    return lines


def _eigenvalue(row: dict, which: str, index: int) -> float:
    value = row["spectrum"][which][index]
    if which == "after":
        return value
    mean = row["spectrum"]["before"][0] / max(row["top_eigenvalue_share"] * row["possible_rank"], 1e-30)
    return value / mean if mean else 0.0


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
