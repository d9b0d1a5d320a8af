"""Several runs on one page: curves in one chart, results and differing settings side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from fastintl.report import page, panels
from fastintl.report.numbers import compact, duration, memory, percent
from fastintl.report.record import RunRecord
from fastintl.runs.summary import PROBES

_APART = ("name", "out")  # differ in every comparison and say nothing


def draw(runs: Sequence[RunRecord]) -> str:
    """The page of two or more runs as HTML."""
    return page.document(" · ".join(run.label for run in runs), _parts(runs))


def differing_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Keys whose values differ between the runs, each with every run's value; "–" where a run has no such key."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in _APART)
    values = {key: [run.config.get(key, "–") for run in runs] for key in keys}
    return [(key, row) for key, row in values.items() if len(set(row)) > 1]


def results(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """The newest figures of every run, "–" where a run has none; figures that no run has are left out."""
    rows: list[tuple[str, Callable[[RunRecord], object], Callable[[float], str]]] = [
        (f"{runs[0].config.get('eval.k', 'k')}-nn accuracy", lambda run: run.last("knn_top1"), percent),
        *((name, lambda run, key=key: run.last(key), percent) for key, name in PROBES.items()),
        ("untrained", lambda run: run.last("knn_top1_untrained"), percent),
        ("loss", lambda run: run.last("loss"), compact),
        ("effective rank, whitened", lambda run: run.last("effective_rank_whitened"), compact),
        ("effective rank before", lambda run: run.last("effective_rank"), compact),
        ("steps", lambda run: run.step, "{:,}".format),
        ("images/s", lambda run: run.images_per_second, compact),
        ("first step", lambda run: run.last("first_step_seconds"), duration),
        ("training time", lambda run: (run.summary or {}).get("train_seconds"), duration),
        ("GPU memory", lambda run: run.last("peak_gpu_memory"), memory),
    ]
    table = [(name, [value(run) for run in runs], number) for name, value, number in rows]
    return [
        (name, ["–" if value is None else number(value) for value in values])
        for name, values, number in table
        if any(value is not None for value in values)
    ]


def _parts(runs: Sequence[RunRecord]) -> Iterator[str]:
    yield f"<h1>{len(runs)} runs compared</h1>"
    under_way = [run.label for run in runs if not run.summary]
    state = f"Under way, or stopped: {', '.join(under_way)}." if under_way else "All are finished."
    yield f'<p class="state">{escape(state)}</p>'
    for run in runs:
        if run.broken:
            yield page.warning(f"{run.label}: {len(run.broken)} lines of metrics.jsonl cannot be read: left out.")
    names = [""] + [f'<span class="swatch {panels.colour(i)}"></span>{escape(run.label)}' for i, run in enumerate(runs)]
    yield page.heading("Results")
    yield page.card("Newest figures", page.table([(name, *row) for name, row in results(runs)], names, "number"))
    yield page.heading("Learning")
    yield page.cards([panels.loss(runs), panels.accuracy(runs), panels.learning_rate(runs)])
    yield page.heading("Spectrum and speed")
    yield page.cards([panels.effective_rank(runs), panels.throughput(runs), panels.data_wait(runs)])
    yield page.heading("Settings that differ")
    differing = [(key, *row) for key, row in differing_settings(runs)]
    nothing = '<p class="nothing">the runs have the same settings</p>'
    yield page.card("Keys", page.table(differing, names, "keys") if differing else nothing)
