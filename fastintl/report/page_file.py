"""The page of one run, or of several compared, as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fastintl.report import comparison, run_page
from fastintl.report.record import RunRecord
from fastintl.runs.folder import write_text
from loaders.errors import UserError, writing


def write_page(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Draws the runs of these folders; lines of their metrics that cannot be read are told on stderr and left out.

    Args:
        out: the page; None is ``report.html`` in the folder of a single run, and ``comparison.html`` of several.

    Returns:
        The file that was written.

    Raises:
        UserError: a folder holds no run, or damaged files, or the page cannot be written.
    """
    names = {folder: folder.resolve().name for folder in folders}  # a folder that is named twice is one run
    among = list(names.values())
    runs = [RunRecord(folder, str(folder) if among.count(name) > 1 else None) for folder, name in names.items()]
    for run in runs:
        if run.broken:
            lines = ", ".join(map(str, run.broken))
            print(f"{run.folder.metrics}: left out, since it cannot be read: line {lines}", file=sys.stderr)
    alone = len(runs) == 1
    out = out or (runs[0].folder.report if alone else Path("comparison.html"))
    try:
        page = run_page.draw(runs[0]) if alone else comparison.draw(runs)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"the page of {', '.join(map(str, folders))} cannot be drawn: config.yaml, metrics.jsonl, starts.jsonl or "
            f"summary.json there holds what no run writes ({type(error).__name__}: {error}); copy the folder again"
        ) from error
    with writing(out):
        write_text(out, page)
    return out
