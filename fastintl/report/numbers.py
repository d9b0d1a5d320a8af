"""Numbers as text that is quick to read."""

from __future__ import annotations

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def compact(value: float) -> str:
    """Three significant digits: 0.031, 2.93, 41.4, 1,234, 56k, 7.1M, 2×10⁻⁶."""
    size = abs(value)
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if size < 1e-3 or size >= 1e9:
        mantissa, exponent = f"{value:.1e}".split("e")
        power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
        mantissa = mantissa.removesuffix(".0")
        return power if mantissa == "1" else f"{mantissa}×{power}"
    for least, unit, name in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= least:
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """A fraction as 92.6 %."""
    return f"{value:.1%}".replace("%", " %")


def short_percent(value: float) -> str:
    """A fraction for an axis: 20 %, 2.5 %."""
    return f"{100 * value:.3g} %"


def duration(seconds: float) -> str:
    """Seconds as 33 ms, 3.2 s, 45 s, 2 min 43 s, 5 h 3 min, 2 d 4 h."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    units = (("s", 1), ("min", 60), ("h", 3600), ("d", 86400))
    k = max(i for i, (_, size) in enumerate(units) if seconds >= 0.99 * size)
    (small_name, small), (large_name, large) = units[k - 1], units[k]
    whole, rest = divmod(round(seconds / small), large // small)
    return f"{whole} {large_name} {rest} {small_name}" if rest else f"{whole} {large_name}"


def memory(size: float) -> str:
    """Bytes as 12.3 GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
