"""The parts of a page in HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from fastintl.report.panels import Panel
from fastintl.report.style import STYLE


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page that needs nothing from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def warning(text: str) -> str:
    return f'<p class="warning">{escape(text)}</p>'


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Key figures: what, how much, and a line more about it."""
    inside = "".join(
        f'<div class="tile"><div class="what">{escape(what)}</div><div class="value">{escape(value)}</div>'
        f'<div class="more">{escape(more)}</div></div>'
        for what, value, more in entries
    )
    return f'<div class="tiles">{inside}</div>'


def cards(panels: Iterable[Panel]) -> str:
    """Charts side by side, as many as the screen holds."""
    inside = "".join(
        f'<section class="card"><div class="head"><h3>{escape(panel.title)}</h3><span>{escape(panel.latest)}</span>'
        f'</div><p class="note">{escape(panel.note)}</p>{panel.body}</section>'
        for panel in panels
    )
    return f'<div class="cards">{inside}</div>'


def card(title: str, *parts: str) -> str:
    return f'<section class="card"><div class="head"><h3>{escape(title)}</h3></div>{"".join(parts)}</section>'


def side_by_side(*parts: str) -> str:
    """Two cards beside each other where the screen is wide enough."""
    return f'<div class="half">{"".join(parts)}</div>'


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), style: str = "") -> str:
    """A table of text; ``header`` is HTML already."""
    head = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr></thead>" if header else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{style}">{head}<tbody>{body}</tbody></table></div>'
