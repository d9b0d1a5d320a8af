"""What a network learnt, to look at: nearest neighbours, a map of the embedding, accuracy per class.

``fastintl.evaluate.neighbours`` finds it. A run folder keeps it as ``neighbours.json``, from which its pages are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from fastintl.report import page
from fastintl.report.numbers import compact, percent
from loaders.errors import UserError
from loaders.files import write_json

_SIDE, _ROOM = 380, 10  # of a map, and what stays free around its points, in units of the drawing
_OPEN_CLASSES = 20  # of more classes the table is folded up


@dataclass(frozen=True)
class Tile:
    """An image of a gallery or of a map.

    Attributes:
        image: a ``data:`` URI.
        text: its class, or its file's name where it has none; "" where nothing is known.
        right: whether its class is the query's (of a neighbour), or was found by the vote (of a query or a point);
            None without labels.
        colour: number of its class; 0 without labels.
        more: what else to say under the pointer.
    """

    image: str
    text: str
    right: bool | None = None
    colour: int = 0
    more: str = ""


@dataclass(frozen=True)
class Gallery:
    """Some queries with their neighbours: rows of tiles, the query first and then the nearest."""

    title: str
    rows: Sequence[Sequence[Tile]]


@dataclass(frozen=True)
class Layout:
    """Places of a map's points in the plane, (x, y) each, and how they were found."""

    title: str
    note: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Neighbours:
    """All that the page shows.

    Attributes:
        title: the run's name, or the file's.
        backbone: the file of weights, as it was given.
        sha256: its SHA-256.
        searched, asked: how many images are searched, and of how many the neighbours are looked for.
        held_out: whether the two are different images. Otherwise an image is no neighbour of its own.
        k: neighbours that vote.
        accuracy: share of the images asked whose class the vote finds; None without labels.
        classes: name, images found and images of each class; empty without labels.
        confused: class, class that was found in its place, and how often; the most frequent first.
        galleries: of some images asked.
        tiles: the map's points.
        layouts: places of the map's points.
    """

    title: str
    backbone: str
    sha256: str
    searched: int
    asked: int
    held_out: bool
    k: int
    accuracy: float | None
    classes: Sequence[tuple[str, int, int]]
    confused: Sequence[tuple[str, str, int]]
    galleries: Sequence[Gallery]
    tiles: Sequence[Tile]
    layouts: Sequence[Layout]

    @property
    def weakest(self) -> list[tuple[str, int, int]]:
        """The classes by their accuracy, the lowest first."""
        return sorted((tuple(row) for row in self.classes), key=lambda row: (row[1] / row[2], row[0]))


def write(found: Neighbours, path: Path) -> None:
    """Keeps it as JSON, for ``read``."""
    write_json(path, asdict(found))


def read(path: Path) -> Neighbours:
    """What ``write`` kept.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        tree = json.loads(path.read_text())
        tree["galleries"] = [
            Gallery(each["title"], [[Tile(**tile) for tile in row] for row in each["rows"]])
            for each in tree["galleries"]
        ]
        tree["tiles"] = [Tile(**tile) for tile in tree["tiles"]]
        tree["layouts"] = [Layout(**layout) for layout in tree["layouts"]]
        return Neighbours(**tree)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): write it again by tools/neighbours.py") from (
            error
        )


def draw(found: Neighbours) -> str:
    """The page as HTML, which needs nothing from elsewhere."""
    return page.document(f"{found.title} · neighbours · fastintl", _parts(found))


def _parts(found: Neighbours) -> Iterator[str]:
    yield f"<h1>{escape(found.title)}</h1>"
    yield f'<p class="state">{escape(found.backbone)} · SHA-256 {escape(found.sha256[:12])}</p>'
    yield from sections(found)


def sections(found: Neighbours) -> Iterator[str]:
    """The parts below a page's title, for ``report.html`` too."""
    yield page.heading("Nearest neighbours")
    yield page.tiles(_key_figures(found))
    yield page.side_by_side(*(page.card(gallery.title, _rows(gallery)) for gallery in found.galleries if gallery.rows))
    if found.layouts:
        yield page.heading("Map of the embedding")
        yield _maps(found)
    if found.classes:
        yield page.heading("Classes")
        yield page.side_by_side(_classes(found), _confused(found))


def _key_figures(found: Neighbours) -> Iterator[tuple[str, str, str]]:
    kind = "held-out images" if found.held_out else "training images, each among the others"
    if found.accuracy is not None:
        yield f"{found.k}-nn accuracy", percent(found.accuracy), f"of {found.asked:,} {kind}"
        low = found.weakest[0]
        yield "Lowest class", percent(low[1] / low[2]), f"{low[0]}, {low[2]:,} images"
    else:
        yield "Images looked up", f"{found.asked:,}", f"{kind}; without labels nothing is right or wrong"
    yield "Searched", f"{found.searched:,}", "training images"


def _rows(gallery: Gallery) -> str:
    return '<div class="gallery">' + "".join(map(_row, gallery.rows)) + "</div>"


def _row(tiles: Sequence[Tile]) -> str:
    """A query and its neighbours."""
    inside = "".join(_figure(tile, "query" if i == 0 else "") for i, tile in enumerate(tiles))
    return f'<div class="row" style="--n:{len(tiles)}">{inside}</div>'


def _figure(tile: Tile, style: str) -> str:
    """An image with its class; the mark says in words too whether it is right."""
    mark = {True: "right", False: "wrong", None: ""}[tile.right]
    sign = {"right": "✓ ", "wrong": "✗ ", "": ""}[mark]
    about = " · ".join(filter(None, (tile.text, mark, tile.more)))
    return (
        f'<figure class="{f"{style} {mark}".strip()}" title="{escape(about)}"><img loading="lazy" '
        f'alt="{escape(about or "an image")}" src="{escape(tile.image)}">'
        f"<figcaption>{sign}{escape(tile.text)}</figcaption></figure>"
    )


def _maps(found: Neighbours) -> str:
    """Every layout of the same points; the images lie in the page once."""
    known = [[tile.image, tile.text, tile.more] for tile in found.tiles]
    # "<" would end the element: in a file's name, for instance.
    data = json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")
    drawn = "".join(
        f'<section class="card"><div class="head"><h3>{escape(layout.title)}</h3></div>'
        f'<p class="note">{escape(layout.note)}</p>{_map(layout, found.tiles)}</section>'
        for layout in found.layouts
    )
    return (
        f'<div class="half">{drawn}</div><div class="tip" hidden><img alt=""><span></span></div>'
        f'<script type="application/json" id="map-images">{data}</script><script>{_SCRIPT}</script>'
    )


def _map(layout: Layout, tiles: Sequence[Tile]) -> str:
    columns = list(zip(*layout.points, strict=True))
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    reach = max(*(b - a for a, b in zip(low, high, strict=True)), 1e-12)  # one scale, or distances would be of two
    free = [(reach - (b - a)) / 2 for a, b in zip(low, high, strict=True)]
    circles = []
    for i, (point, tile) in enumerate(zip(layout.points, tiles, strict=True)):
        share = [(value - a + room) / reach for value, a, room in zip(point, low, free, strict=True)]
        x, y = (_ROOM + (_SIDE - 2 * _ROOM) * part for part in (share[0], 1 - share[1]))
        hue = f"{tile.colour * 137.508 % 360:.0f}"
        circles.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" data-i="{i}" style="--hue:{hue}"/>')
    name = escape(f"{layout.title} of {len(tiles)} images")
    return f'<svg class="map" viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{name}">{"".join(circles)}</svg>'


def _classes(found: Neighbours) -> str:
    rows = [(name, f"{right:,} of {count:,}", percent(right / count)) for name, right, count in found.weakest]
    table = page.table(rows, ("class", "found", "accuracy"), "number")
    if len(rows) > _OPEN_CLASSES:
        first = page.table(rows[:_OPEN_CLASSES], ("class", "found", "accuracy"), "number")
        table = f"{first}<details><summary>all {len(rows):,} classes</summary>{table}</details>"
    return page.card("Accuracy per class, the lowest first", table)


def _confused(found: Neighbours) -> str:
    if not found.confused:
        return page.card("Most confused", '<p class="nothing">no image is taken for one of another class</p>')
    of_class = {name: count for name, _, count in found.classes}
    rows = [(a, b, f"{count:,}", percent(count / of_class[a])) for a, b, count in found.confused]
    return page.card("Most confused", page.table(rows, ("class", "taken for", "images", "of the class"), "pairs"))


def as_text(found: Neighbours, most: int = 5) -> Iterator[tuple[Sequence[str], list[Sequence[str]]]]:
    """Headers and rows of short tables for a terminal: the lowest classes and the most confused pairs."""
    if found.accuracy is None:
        return
    name = f"{found.k}-nn"
    rows = [("all", f"{found.asked:,}", f"{found.accuracy:.1%}")]
    rows += [(row[0], f"{row[2]:,}", f"{row[1] / row[2]:.1%}") for row in found.weakest[:most]]
    yield ("class, the lowest first", "images", name), rows
    if found.confused:
        yield ("class", "taken for", "images"), [(a, b, compact(count)) for a, b, count in found.confused[:most]]


# The image of the point nearest to the pointer, in all maps at once.
_SCRIPT = """
(() => {
  const images = JSON.parse(document.getElementById("map-images").textContent);
  const tip = document.querySelector(".tip"), [picture, words] = tip.children;
  const maps = [...document.querySelectorAll("svg.map")];
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll("svg.map .on").forEach(point => point.classList.remove("on"));
  };
  const show = (map, event) => {
    let best = null, least = 24;
    for (const point of map.children) {
      const box = point.getBoundingClientRect();
      const distance = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (distance < least) [best, least] = [point, distance];
    }
    hide();
    if (!best) return;
    const i = +best.dataset.i, [image, text, more] = images[i];
    for (const other of maps) other.children[i].classList.add("on");
    picture.src = image;
    words.textContent = [text, more].filter(Boolean).join(", ");
    tip.hidden = false;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 4);
    const above = event.clientY - height - 14;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = (above < 4 ? event.clientY + 14 : above) + "px";
  };
  for (const map of maps) {
    map.addEventListener("pointermove", event => show(map, event));
    map.addEventListener("pointerdown", event => show(map, event));
    map.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });
  }
  addEventListener("scroll", hide, {passive: true});
})();
"""
