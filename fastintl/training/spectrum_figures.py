"""The figures of docs/method.md: what the losses do to the spectrum of the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastintl.report import svg
from fastintl.report.record import RunRecord
from fastintl.training import spectrum
from loaders.errors import UserError

_BESIDE = {"fontsize": 7, "loc": "center left", "bbox_to_anchor": (1, 0.5)}  # a legend that hides no line
_TEXT = {"font.size": 9, "legend.framealpha": 0}
_AXES = {"axes.grid": True, "axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.3}


def draw_spectra(folders: Sequence[Path], out: Path) -> list[Path]:
    """Draws ``map.svg``, ``spectra.svg`` and ``rank.svg`` of finished runs into the folder ``out``.

    Returns:
        The files.

    Raises:
        UserError: a folder holds no run or one without spectra, or a figure cannot be written.
    """
    runs = [RunRecord(folder) for folder in folders]
    for run in runs:
        if not any("spectrum" in row for row in run.rows):
            raise UserError(f"{run.folder.path} has no spectrum: train it with log.spectrum_every=20 or so")
    figures = {
        out / "map.svg": ([_draw_map], (4.6, 3.2)),
        out / "spectra.svg": ([partial(_draw_spectra, runs, when) for when in ("before", "after")], (9, 3.2)),
        out / "rank.svg": ([partial(_draw_ranks, runs)], (6, 3.2)),
    }
    with matplotlib.rc_context(svg.STYLE | _TEXT | _AXES):
        for path, (panels, size) in figures.items():
            _save(path, panels, size)
    return list(figures)


def _draw_map(ax: Axes) -> None:
    """An eigenvalue after the transformation against its share of the trace before it, each a function of it alone."""
    share = torch.logspace(-4, 0, 200, dtype=torch.float64)
    for iterations in (1, 2, 4, 7):
        # The rest of the trace makes each share what it is.
        after = [spectrum.whitened(torch.stack([s, 1 - s]), iterations)[0] for s in share]
        ax.loglog(share, after, label=f"IterNorm, T = {iterations}")
    ax.loglog(share, torch.ones_like(share), "--", color=svg.INK, label="hard whitening")
    ax.loglog(share, share ** (1 - 2 * 0.4), ":", color=svg.INK, label="power 0.4")
    ax.set(xlabel="eigenvalue before, share of the trace", ylabel="eigenvalue after", ylim=(1e-4, 2))
    ax.legend(fontsize=7)


def _draw_spectra(runs: Sequence[RunRecord], when: str, ax: Axes) -> None:
    """The eigenvalues of each run's last measurement, before or after the transformation."""
    for run in runs:
        last = [row["spectrum"] for row in run.rows if "spectrum" in row][-1]
        largest = max(last[when][0], 1e-30)
        points = [(rank, value / largest) for rank, value in zip(last["ranks"], last[when], strict=True) if value > 0]
        ax.loglog(*zip(*points, strict=True), label=run.label)
    ax.set(title=f"{when} the transformation", xlabel="rank", ylabel="eigenvalue by the largest", ylim=(1e-6, 2))
    if when == "after":
        ax.legend(**_BESIDE)


def _draw_ranks(runs: Sequence[RunRecord], ax: Axes) -> None:
    """The effective rank over the epochs."""
    for run in runs:
        (line,) = ax.plot(*run.series("effective_rank"), label=run.label)
        ax.plot(*run.series("effective_rank_whitened"), "--", color=line.get_color())
    ax.set(xlabel="epoch", ylabel="effective rank (dashed: after)", ylim=(0, None))
    ax.legend(**_BESIDE)


def _save(path: Path, panels: Sequence[Callable[[Axes], None]], size: tuple[float, float]) -> None:
    """Draws the panels side by side; ``size`` is in inches."""
    figure = Figure(size, layout="constrained")
    for i, draw in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), i + 1))
    svg.save(figure, path)
