"""The scale of a chart's axis: from values to 0..1, and where its ticks are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic scale from ``low`` to ``high``."""

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
