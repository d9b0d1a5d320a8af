"""The figure of ``bench.py tradeoff``: each accuracy against each cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastintl.report import svg

_COLOURS = {"constant": "#8b949e", "equal": "#8b949e", "growing": "#2f81f7"}
_SCORES = {"knn_top1": "k-NN accuracy, %", "linear_top1": "linear accuracy, %"}
_COSTS = {"images": "images seen", "flops": "operations, counted", "seconds": "seconds"}


def draw(settings: Sequence[Mapping[str, Any]], trainings: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes an SVG that is readable on white and on black: a dot a training, a mark with its standard deviation a
    setting, a line through those of constant size, which is what there is to beat. Costs that a setting does not have
    are left out. The same numbers give the same bytes.

    Args:
        settings, trainings: of the JSON file.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**svg.STYLE, "font.size": 8}):
        figure = Figure((9, 5), layout="constrained")
        costs = {cost: name for cost, name in _COSTS.items() if all(row[cost] for row in settings)}
        panels = figure.subplots(len(_SCORES), len(costs), sharey="row", sharex="col")
        for row, (score, score_name) in zip(panels, _SCORES.items(), strict=True):
            for axes, (cost, cost_name) in zip(row, costs.items(), strict=True):
                _draw_panel(axes, settings, trainings, score, cost)
                axes.set_xlabel(cost_name)
                axes.label_outer()
            row[0].set_ylabel(score_name)
        panels[0][0].legend(fontsize=7, frameon=False)
        svg.save(figure, path)


def _draw_panel(axes: Any, settings: Sequence[Mapping], trainings: Sequence[Mapping], score: str, cost: str) -> None:
    for kind, kinds in {"constant": ("constant", "equal"), "growing": ("growing",)}.items():
        rows = sorted((row for row in settings if row["kind"] in kinds), key=lambda row: row[cost]["mean"])
        if not rows:
            continue
        x, y = [row[cost]["mean"] for row in rows], [100 * row[score]["mean"] for row in rows]
        spread = [100 * (row[score]["std"] or 0) for row in rows]
        label = {"constant": "constant size", "growing": "crops that grow"}[kind]
        line = "-" if kind == "constant" else "none"
        axes.errorbar(x, y, spread, fmt="o", linestyle=line, color=_COLOURS[kind], capsize=3, ms=5, label=label)
        names = {row["name"] for row in rows}
        dots = [one for one in trainings if one["setting"] in names and one[cost] is not None]
        axes.scatter([d[cost] for d in dots], [100 * d[score] for d in dots], s=6, color=_COLOURS[kind], alpha=0.5)
    axes.set_xlim(left=0)
    axes.locator_params(nbins=5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
