"""The parts of a page in HTML, and its style: light and dark, from phone to desktop; nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from fastintl.report.panels import Panel


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page that needs nothing from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
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


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --ink: #1c2024; --quiet: #60656d; --rule: #dfe2e6; --grid: #e9ebee;
  --alarm: #d02b2b; --good: #1a7f4b;
  --s0: #2563eb; --s1: #d9480f; --s2: #2b8a3e; --s3: #9c36b5; --s4: #0b7285; --s5: #c2255c;
  --s6: #7a5c00; --s7: #495057;
  --r0: #1d3fa8; --r1: #2563eb; --r2: #2e8fd6; --r3: #27a3a3; --r4: #4aa564; --r5: #7d9b2f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101214; --card: #191c20; --ink: #e8eaed; --quiet: #9aa1ab; --rule: #2c3138; --grid: #262a30;
    --alarm: #ff7b72; --good: #56d08d;
    --s0: #74a7ff; --s1: #ff9f5a; --s2: #69db7c; --s3: #e599f7; --s4: #3bc9db; --s5: #faa2c1; --s6: #e6c35c;
    --s7: #adb5bd;
    --r0: #a5b8ff; --r1: #74a7ff; --r2: #56bdf0; --r3: #4fd1c5; --r4: #7ddc96; --r5: #c0d860;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 12px; }
h3 { font-size: 14px; margin: 0; font-weight: 600; }
.state { color: var(--quiet); margin: 4px 0 20px; overflow-wrap: anywhere; }
.state b { color: var(--ink); font-weight: 600; }
.good { color: var(--good); }
.alarm { color: var(--alarm); }
.warning { border-left: 3px solid var(--alarm); padding: 8px 14px; background: var(--card); margin: 0 0 16px; }
.tiles, .cards { display: grid; gap: 14px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(360px, 100%), 1fr)); }
.tile, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; }
.card { min-width: 0; }
.tile .what { color: var(--quiet); font-size: 13px; }
.tile .value { font-size: 26px; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }
.tile .more { color: var(--quiet); font-size: 13px; }
.head { display: flex; justify-content: space-between; gap: 12px; align-items: baseline; }
.head span { font-variant-numeric: tabular-nums; color: var(--quiet); font-size: 13px; text-align: right; }
.note { color: var(--quiet); font-size: 12.5px; margin: 2px 0 8px; min-height: 2.9em; }
.nothing { color: var(--quiet); text-align: center; padding: 60px 0; margin: 0; }
.card > svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); fill: none; }
.axis, .tick { stroke: var(--quiet); fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.level { stroke: var(--quiet); stroke-width: 1.4; stroke-dasharray: 6 4; stroke-linecap: butt; }
.dash1 { stroke-dasharray: 7 3 1.5 3; }
.dash2 { stroke-dasharray: 1.5 3; }
path.alarm { stroke: var(--alarm); stroke-width: 1.4; stroke-dasharray: 3 3; }
.hit { fill: transparent; stroke: none; }
.hit:hover { stroke: var(--ink); }
.band { opacity: 0.16; stroke: none; }
text.end { font-weight: 600; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px;
  margin: 8px 0 0; padding: 0; font-size: 12.5px; }
.legend li { display: flex; align-items: center; gap: 6px; color: var(--quiet); overflow-wrap: anywhere; }
.legend svg { width: 20px; height: 8px; flex: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--quiet); }
td:last-child, th:last-child { padding-right: 0; }
tr:last-child td { border-bottom: 0; }
td { overflow-wrap: anywhere; }
td:first-child { color: var(--quiet); overflow-wrap: normal; }
.number th:not(:first-child), .number td:not(:first-child) { text-align: right; }
.half { display: grid; gap: 14px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); }
.tiles + .half { margin-top: 14px; }
.crops { display: block; max-width: 100%; max-height: 620px; margin: 0 auto; }
.gallery { display: grid; gap: 10px; margin-top: 8px; }
.row { display: grid; gap: 6px; grid-template-columns: repeat(var(--n), minmax(0, 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 5px;
  border: 3px solid var(--rule); }
figure.right img { border-color: var(--good); }
figure.wrong img { border-color: var(--alarm); border-style: dashed; }
figure.query { border-right: 2px solid var(--rule); padding-right: 6px; }
figcaption { color: var(--quiet); font-size: 11.5px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
figure.query figcaption { color: var(--ink); font-weight: 600; }
.map { max-width: 680px; margin: 0 auto; touch-action: pan-y; cursor: crosshair; }
.map circle { fill: hsl(var(--hue) 70% 42%); fill-opacity: 0.75; }
.map circle.on { stroke: var(--ink); stroke-width: 2; fill-opacity: 1; }
.tip { position: fixed; z-index: 1; pointer-events: none; max-width: 180px; padding: 6px; border-radius: 8px;
  background: var(--card); border: 1px solid var(--rule); box-shadow: 0 2px 10px #0004; font-size: 12.5px; }
.tip[hidden] { display: none; }
.tip img { display: block; width: 96px; aspect-ratio: 1; margin: 0 auto 4px; border-radius: 5px; }
.tip span { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { .map circle { fill: hsl(var(--hue) 75% 66%); } }
.pairs th:nth-child(n+3), .pairs td:nth-child(n+3) { text-align: right; }
code, pre, .keys td { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--quiet); font-size: 13.5px; padding: 10px 0 4px; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
@media (max-width: 480px) {
  main { padding: 20px 14px 36px; }
  .tile, .card { padding: 12px; }
  .tile:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .tile .value { font-size: 22px; }
  .note { min-height: 0; }
  .row { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .gallery { gap: 20px; }
  figure.query { border: 0; padding: 0; }
}
""" + "".join(
    f".{name} {{ stroke: var(--{name}); }} .band.{name}, circle.{name}, text.end.{name} {{ fill: var(--{name}); "
    f"stroke: none; }} .swatch.{name} {{ background: var(--{name}); }}\n"
    for name in [*(f"s{i}" for i in range(8)), *(f"r{i}" for i in range(6))]
)
