"""Figures as SVG files: readable on white and on black, and the same bytes for the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.errors import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#7d8590"  # 4 : 1 against white and against GitHub's black
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
# matplotlib's settings to draw with. Text stays text; each piece of it repeats the fonts' names, of which the first
# and the family are enough: the whole list is a tenth of a figure's bytes.
STYLE: dict[str, Any] = {
    "svg.hashsalt": "fastintl",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    **dict.fromkeys(_INKED, INK),
}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure that was drawn with ``STYLE``; the page's own colour shows through.

    Raises:
        UserError: the file cannot be written.
    """
    with writing(path):
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.M))
