"""How opening, resuming and memory grow with the number of images: the same few small JPEGs under so many names, in
class folders, a tar and a .beton file, each opened by every source that reads it, in a process of its own.

    python tools/bench.py scale --json scale.json

``opened`` is the time to a loader, once what is kept between runs (a tar's index) is there; ``first time`` with that.
``first batch`` and ``resumed`` are the times to a batch of 64 images, at the start and from the middle of an epoch.
The memory is this process's own, without pages of files, that opening and those batches added. Exponents of 0 say that
a cost does not depend on the number of images, of 1 that it grows with it. The memory source decodes everything when it
is opened, so it is measured only where ``--sources`` names it.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loaders.errors import UserError, exit_on_user_error
from loaders.startup import late_imports

from .own_memory import own_bytes
from .results import write_result

# 1,281,167 is ImageNet's training set.
_SIZES = (10_000, 100_000, 1_281_167)
_READ_BY = {"folder": ("folder", "dali", "memory"), "tar": ("folder", "dali", "memory")}
_READ_BY["beton"] = ("ffcv", *_READ_BY["folder"])
_CLASSES, _PICTURES, _SIDE, _BATCH = 1000, 64, 16, 64
_LINKS = 30_000  # names of one file; file systems allow 65,000 and fewer
_COSTS = {
    "first_seconds": "first time",
    "open_seconds": "opened",
    "batch_seconds": "first batch",
    "resume_seconds": "resumed",
    "private_bytes": "memory",
    "names_seconds": "names read",
    "names_bytes": "their memory",
}
_PLACE = Path(__file__).resolve().parents[__package__.count(".") + 1]  # from which Python finds this package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = f"numbers of images (default: {' '.join(map(str, _SIZES))}, which takes 7 GB and some minutes)"
    parser.add_argument("--images", type=int, nargs="+", default=_SIZES, metavar="N", help=text)
    parser.add_argument("--kinds", nargs="+", choices=_READ_BY, default=tuple(_READ_BY), help="default: all")
    text = "sources to measure (default: ffcv folder dali)"
    parser.add_argument(
        "--sources", nargs="+", choices=_READ_BY["beton"], default=("ffcv", "folder", "dali"), help=text
    )
    parser.add_argument("--place", type=Path, help="folder in which the images are made (default: the system's)")
    parser.add_argument("--json", type=Path, help="write what was measured, and the environment, to this file")


def run(arguments: argparse.Namespace) -> None:
    if min(arguments.images) < 2 * _BATCH:
        raise UserError(f"--images {min(arguments.images)}: an epoch must have two batches, {2 * _BATCH} images")
    rows = []
    for count in sorted(set(arguments.images)):
        with tempfile.TemporaryDirectory(dir=arguments.place) as place:
            for kind in arguments.kinds:
                path = globals()[f"write_{kind}"](Path(place), count)
                sources = [source for source in _READ_BY[kind] if source in arguments.sources]
                rows += [_measured(path, kind, source, count) for source in sources]
    growth = exponents(rows)
    write_result(arguments, "scale", rows=rows, exponents=growth)
    _print(rows, growth)


def exponents(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The slope of the logarithm of each cost over that of the number of images, for each kind and source; by least
    squares. Costs below a millisecond and a megabyte count as those: they are noise."""
    found = []
    for kind, source in dict.fromkeys((row["kind"], row["source"]) for row in rows):
        points = [row for row in rows if (row["kind"], row["source"]) == (kind, source) and "error" not in row]
        if len(points) < 2:
            continue
        x = [math.log(row["images"]) for row in points]
        mean = sum(x) / len(x)
        slopes = {}
        for cost in _COSTS:
            least = 1e6 if cost.endswith("bytes") else 1e-3
            y = [math.log(max(row[cost], least)) for row in points]
            slopes[cost] = sum((a - mean) * b for a, b in zip(x, y, strict=True)) / sum((a - mean) ** 2 for a in x)
        found.append({"kind": kind, "source": source, **slopes})
    return found


def _print(rows: Sequence[dict[str, Any]], growth: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from loaders.terminal import open_console

    console = open_console(width=120)
    columns = ("kind", "source", *_COSTS.values())
    for count in dict.fromkeys(row["images"] for row in rows):
        table = Table(*columns, title=f"{count:,} images")
        for row in (row for row in rows if row["images"] == count and "error" not in row):
            costs = (f"{row[c] / 1e6:,.0f} MB" if c.endswith("bytes") else f"{row[c]:.3f} s" for c in _COSTS)
            table.add_row(row["kind"], row["source"], *costs)
        console.print(table)
    table = Table(*columns, title="exponents in the number of images")
    for row in growth:
        table.add_row(row["kind"], row["source"], *(f"{row[cost]:.2f}" for cost in _COSTS))
    console.print(table)
    for row in rows:
        if "error" in row:
            console.print(f"left out: {row['kind']} by {row['source']}, {row['images']:,} images: {row['error']}")


# The images


def _pictures() -> list[bytes]:
    import numpy as np
    from PIL import Image

    rng, found = np.random.default_rng(0), []
    for _ in range(_PICTURES):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(file, "JPEG", quality=50)
        found.append(file.getvalue())
    return found


def _names(count: int) -> Iterator[str]:
    """Names of ImageNet's length, class by class."""
    for i in range(count):
        label = i * _CLASSES // count
        yield f"n{label:08}/n{label:08}_{i}.JPEG"


def write_folder(place: Path, count: int) -> Path:
    """Class folders in which few files have many names."""
    root, pictures = place / "folder", _pictures()
    for label in range(_CLASSES):
        (root / f"n{label:08}").mkdir(parents=True)
    linked: list[Path] = [root] * _PICTURES
    for i, name in enumerate(_names(count)):
        picture = i % _PICTURES
        if i // _PICTURES % _LINKS == 0:
            linked[picture] = root / name
            linked[picture].write_bytes(pictures[picture])
        else:
            os.link(linked[picture], root / name)
    return root


def write_tar(place: Path, count: int) -> Path:
    """One tar of the same names."""
    pictures = _pictures()
    with tarfile.open(place / "images.tar", "w") as tar:
        for i, name in enumerate(_names(count)):
            member = tarfile.TarInfo(name)
            member.size = len(pictures[i % _PICTURES])
            tar.addfile(member, io.BytesIO(pictures[i % _PICTURES]))
    return place / "images.tar"


def write_beton(place: Path, count: int) -> Path:
    """One ``.beton`` of the same names."""
    import numpy as np

    from loaders.beton.file import JPEG
    from loaders.beton.writer import BetonWriter

    path, pictures = place / "images.beton", _pictures()
    with open(path, "w+b") as file:
        writer = BetonWriter(file.fileno(), count)
        for i in range(count):
            writer.add(pictures[i % _PICTURES], _SIDE, _SIDE, JPEG)
        labels = np.arange(count) * _CLASSES // count
        writer.finish(labels, list(_names(count)), [f"n{label:08}" for label in range(_CLASSES)])
    return path


# The measurement


def _measured(path: Path, kind: str, source: str, count: int) -> dict[str, Any]:
    row: dict[str, Any] = {"images": count, "kind": kind, "source": source}
    small = globals()[f"write_{kind}"](Path(tempfile.mkdtemp(dir=path.parent)), 2 * _BATCH)
    # Where an index is kept: of each source its own, or the first would have made that of all.
    environment = {**os.environ, "XDG_CACHE_HOME": str(path.parent / f"cache_{source}")}
    for _ in range(2 if kind == "tar" else 1):  # it is there the second time
        command = [sys.executable, "-m", f"{__package__}.scale", path.resolve(), source, small.resolve()]
        ended = subprocess.run(command, cwd=_PLACE, env=environment, capture_output=True, text=True)
        if ended.returncode:
            return {**row, "error": (ended.stderr.splitlines() or ["its process died"])[-1].removeprefix("error: ")}
        found = json.loads(ended.stdout.splitlines()[-1])
        row.setdefault("first_seconds", found["open_seconds"])
    return {**row, **found}


# What follows runs in a process of its own.


def measure(path: Path, source: str, small: Path) -> dict[str, float]:
    """Seconds and bytes of a dataset, after those that importing and compiling cost have been spent on a small one."""
    _open_and_draw(small, source)
    before, start = own_bytes(), time.perf_counter()
    loader = _open(path, source)
    opened = time.perf_counter()
    _draw(loader)
    drawn = time.perf_counter()
    loader.set_position(1, len(loader) // 2)
    _draw(loader)
    resumed, private = time.perf_counter(), own_bytes() - before
    kept = list(loader.images.names)
    named, names_bytes = time.perf_counter(), own_bytes() - before - private
    assert len(kept) == len(loader.images)
    loader.close()
    times = (start, opened, drawn, resumed, named)
    seconds = [end - begin for begin, end in zip(times, times[1:], strict=False)]
    names = ("open_seconds", "batch_seconds", "resume_seconds", "names_seconds")
    return {**dict(zip(names, seconds, strict=True)), "private_bytes": private, "names_bytes": names_bytes}


def _open(path: Path, source: str):
    with late_imports():
        from loaders import CropSpec, MultiCrop, make_loader

    return make_loader(path, MultiCrop((CropSpec(_SIDE),)), _BATCH, source=source, threads=1)


def _draw(loader) -> None:
    batches = iter(loader)
    next(batches)
    batches.close()


def _open_and_draw(path: Path, source: str) -> None:
    loader = _open(path, source)
    _draw(loader)
    list(loader.images.names)
    loader.close()


@exit_on_user_error
def _main(path: str, source: str, small: str) -> None:
    print(json.dumps(measure(Path(path), source, Path(small))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
