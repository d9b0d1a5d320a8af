"""Line charts as inline SVG; colours and fonts come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from fastintl.report.numbers import compact

_WIDTH, _HEIGHT = 380, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 38
_LABELLED_RIGHT = 54  # right margin with labels at the lines' ends
_MOST_POINTS = 240  # a line of more is drawn as means, on a band from minimum to maximum
_MOST_HITS = 48  # points of a line that tell their value under the pointer
_LINE_HEIGHT = 12.0


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        style: CSS classes: ``s0`` … ``s7`` for its colour, ``dots`` to mark its points.
        shade: whether the space down to the next line is shaded.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "s0"
    shade: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line across the chart, named in its legend."""

    label: str
    y: float
    style: str = "level"


def draw(
    lines: Sequence[Line],
    levels: Sequence[Level] = (),
    *,
    name: str,
    until: float = 0.0,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
    number: Callable[[float], str] = compact,
    labels_at_ends: bool = False,
) -> str:
    """A chart over the epochs as SVG, with a legend in HTML where there is more than one line.

    Args:
        name: name of the chart, for screen readers.
        until: the epoch that the x axis reaches at least, so that charts beside each other have one axis.
        log: whether the y axis is logarithmic.
        low, high: ends of the y axis; None: where the values end.
        number: writes a value on the y axis.
        labels_at_ends: name the lines at their right ends, in place of the legend.
    """
    lines = [line for line in lines if line.x]
    if not lines:
        return '<p class="nothing">nothing measured yet</p>'
    x = Scale.around([0.0], low=0.0, high=max(until, *(max(line.x) for line in lines)))
    values = [value for line in lines for value in line.y] + [level.y for level in levels]
    y = Scale.around(values, log, low, high)
    canvas = _Canvas(x, y, _LABELLED_RIGHT if labels_at_ends else _RIGHT)
    parts = [canvas.grid(number)]
    parts += [canvas.shade(line, following) for line, following in zip(lines, lines[1:], strict=False) if line.shade]
    parts += [canvas.level(level) for level in levels]
    parts += [canvas.line(line) for line in lines]
    parts += [canvas.values(line, number) for line in lines]
    if labels_at_ends:
        parts.append(canvas.end_labels(lines))
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'
    return svg if labels_at_ends else svg + _legend(lines, levels)


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic scale of an axis, from ``low`` to ``high``."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], log: bool = False, low: float | None = None, high: float | None = None
    ) -> Scale:
        """The scale of all values with a little room around them; ``low`` and ``high`` fix an end.

        On a logarithmic scale values that are not positive do not count.
        """
        transform = math.log10 if log else float
        inside = [transform(value) for value in values if not log or value > 0]
        bottom, top = min(inside, default=0.0), max(inside, default=1.0)
        room = 0.06 * (top - bottom) or 0.05 * abs(top) or 0.5
        bottom = bottom - room if low is None else transform(low)
        top = top + room if high is None else max(transform(high), bottom + 1e-12)
        return cls(10**bottom, 10**top, True) if log else cls(bottom, top)

    def __call__(self, value: float) -> float:
        """0 at ``low``, 1 at ``high``; what lies outside goes to the nearer end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers inside, at most about so many."""
        if not self.log:
            return _linear_ticks(self.low, self.high, most)
        low, high = math.log10(self.low), math.log10(self.high)
        if high - low < 1.5:
            decades = range(math.floor(low), math.ceil(high) + 1)
            inside = [m * 10.0**k for k in decades for m in (1, 2, 5) if self.low <= m * 10.0**k <= self.high]
            return inside if len(inside) >= 2 else _linear_ticks(self.low, self.high, most)
        stride = math.ceil((high - low) / most)
        return [10.0**k for k in range(math.ceil(low), math.floor(high) + 1) if k % stride == 0]


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class _Canvas:
    """Puts values into the coordinates of the drawing."""

    def __init__(self, x: Scale, y: Scale, right: float) -> None:
        self._x_scale, self._y_scale = x, y
        self._right, self._bottom = _WIDTH - right, _HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        return _LEFT + self._x_scale(value) * (self._right - _LEFT)

    def y(self, value: float) -> float:
        return self._bottom - self._y_scale(value) * (self._bottom - _TOP)

    def grid(self, number: Callable[[float], str]) -> str:
        parts = []
        for value in self._y_scale.ticks():
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{self._right}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.8:.1f}" text-anchor="end">{escape(number(value))}</text>')
        for value in self._x_scale.ticks():
            x = self.x(value)
            parts.append(f'<path class="tick" d="M{x:.1f} {self._bottom}v4"/>')
            parts.append(f'<text x="{x:.1f}" y="{self._bottom + 16}" text-anchor="middle">{compact(value)}</text>')
        parts.append(f'<path class="axis" d="M{_LEFT} {self._bottom}H{self._right}"/>')
        middle = (_LEFT + self._right) / 2
        parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">epoch</text>')
        return "".join(parts)

    def level(self, level: Level) -> str:
        return f'<path class="line {level.style}" d="M{_LEFT} {self.y(level.y):.1f}H{self._right}"/>'

    def line(self, line: Line) -> str:
        x, mean, least, most = _thinned(line.x, line.y)
        band = ""
        if least is not None:
            there = zip(x, most, strict=True)
            back = zip(reversed(x), reversed(least), strict=True)
            band = f'<path class="band {line.style}" d="{self._path([*there, *back])}Z"/>'
        points = list(zip(x, mean, strict=True))
        drawn = band + f'<path class="line {line.style}" d="{self._path(points)}"/>'
        if "dots" in line.style.split() or len(points) == 1:
            drawn += "".join(
                f'<circle class="{line.style}" cx="{self.x(a):.1f}" cy="{self.y(b):.1f}" r="3.2"/>' for a, b in points
            )
        return drawn

    def values(self, line: Line, number: Callable[[float], str]) -> str:
        """Spots along a line, seen under the pointer alone, which then shows their value; the last is one of them."""
        x, mean, _, _ = _thinned(line.x, line.y)
        points = list(zip(x, mean, strict=True))
        points = points[:: -max(1, math.ceil(len(points) / _MOST_HITS))]
        return "".join(
            f'<circle class="hit" cx="{self.x(a):.1f}" cy="{self.y(b):.1f}" r="5">'
            f"<title>{escape(line.label)}: {escape(number(b))}, epoch {compact(a)}</title></circle>"
            for a, b in points
        )

    def shade(self, above: Line, below: Line) -> str:
        there = zip(above.x, above.y, strict=True)
        back = zip(reversed(below.x), reversed(below.y), strict=True)
        return f'<path class="band {above.style}" d="{self._path([*there, *back])}Z"/>'

    def end_labels(self, lines: Sequence[Line]) -> str:
        """The lines' names, moved apart where the lines end close together."""
        placed = sorted((self.y(line.y[-1]), line) for line in lines)
        heights = [height for height, _ in placed]
        for i in range(1, len(heights)):
            heights[i] = max(heights[i], heights[i - 1] + _LINE_HEIGHT)
        overhang = max(0.0, heights[-1] - self._bottom)
        return "".join(
            f'<text class="end {line.style}" x="{self._right + 5}" y="{height - overhang + 3.8:.1f}">'
            f"{escape(line.label)}</text>"
            for height, (_, line) in zip(heights, placed, strict=True)
        )

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in points)


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list, list, list | None, list | None]:
    """A line in at most ``_MOST_POINTS`` points: positions, means, minima, maxima; no extremes if all fit."""
    if len(x) <= _MOST_POINTS:
        return list(x), list(y), None, None
    edges = [round(i * len(x) / _MOST_POINTS) for i in range(_MOST_POINTS + 1)]
    stretches = [(x[a:b], y[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    return (
        [sum(xs) / len(xs) for xs, _ in stretches],
        [sum(ys) / len(ys) for _, ys in stretches],
        [min(ys) for _, ys in stretches],
        [max(ys) for _, ys in stretches],
    )


def _legend(lines: Sequence[Line], levels: Sequence[Level]) -> str:
    entries = [(line.label, line.style) for line in lines] + [(level.label, level.style) for level in levels]
    if len(entries) < 2:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 20 8" aria-hidden="true"><path class="line {style}" d="M0 4H20"/></svg>'
        f"{escape(label)}</li>"
        for label, style in entries
    )
    return f'<ul class="legend">{items}</ul>'
