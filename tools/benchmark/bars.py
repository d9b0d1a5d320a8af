"""A measurement as an image: horizontal bars in an SVG that is readable on white and on black."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastintl.report import svg

_COLOURS = {"ours": "#2f81f7", "other": "#8b949e", "ceiling": "none"}
_BAR_INCHES, _WIDTH_INCHES = 0.27, 7.0


@dataclass(frozen=True)
class Bar:
    """One row.

    Attributes:
        kind: ``ours``, ``other`` or ``ceiling``, an outline: what bounds the others.
        group: rows of a group stand together, under its name.
    """

    label: str
    value: float
    kind: str
    group: str = ""


def draw(bars: Sequence[Bar], title: str, caption: str, path: Path) -> None:
    """Writes the bars as ``path``, an SVG; the same bars give the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(bar.group for bar in bars))
    rows = len(bars) + len(groups) * (len(groups) > 1)
    with matplotlib.rc_context({**svg.STYLE, "font.size": 9}):
        figure = Figure((_WIDTH_INCHES, 0.75 + _BAR_INCHES * rows))
        axes = figure.subplots()
        _draw_rows(axes, bars, groups)
        axes.set_title(title, loc="left", fontsize=10, x=0)
        figure.text(0.01, 0.01, caption, fontsize=7.5)
        figure.tight_layout(rect=(0, 0.02, 1, 1))
        svg.save(figure, path)


def _draw_rows(axes, bars: Sequence[Bar], groups: Sequence[str]) -> None:
    y, ticks, labels = 0, [], []
    for group in groups:
        if len(groups) > 1:
            axes.text(0, y, group, va="center", fontweight="bold")
            y += 1
        for bar in (bar for bar in bars if bar.group == group):
            edge = svg.INK if bar.kind == "ceiling" else "none"
            axes.barh(y, bar.value, 0.7, color=_COLOURS[bar.kind], edgecolor=edge, linestyle="--")
            axes.text(bar.value, y, f" {_number(bar.value)}", va="center")
            ticks.append(y)
            labels.append(bar.label)
            y += 1
    axes.set_yticks(ticks, labels)
    axes.set_ylim(y - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(bar.value for bar in bars))
    axes.set_xticks([])
    axes.tick_params(length=0, labelcolor=svg.INK)
    for side in axes.spines.values():
        side.set_visible(False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
