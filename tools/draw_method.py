"""The figures of docs/method.md: what the losses do to the spectrum of the embedding, from finished runs.

    python tools/draw_method.py runs/intl runs/intl_no_trace runs/cw_rgp_2 --out docs/figures

Draws map.svg (what becomes of one eigenvalue, without any run), spectra.svg (the eigenvalues of each run's last
measurement, before and after its loss's transformation) and rank.svg (the effective rank over the epochs). The runs
need log.spectrum_every.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import UserError, exit_on_user_error  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastintl.report.record import RunRecord

_BESIDE = {"fontsize": 7, "loc": "center left", "bbox_to_anchor": (1, 0.5)}  # a legend that hides no line


@exit_on_user_error
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as runs/demo")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the figures go")
    given = parser.parse_args(arguments)

    import matplotlib

    from fastintl.report.record import RunRecord

    matplotlib.use("svg")
    # The same file for the same numbers; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "fastintl", "svg.fonttype": "none", "font.size": 9, "axes.grid": True})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.3})
    runs = [RunRecord(folder) for folder in given.runs]
    for run in runs:
        if not any("spectrum" in row for row in run.rows):
            raise UserError(f"{run.folder.path} has no spectrum: train it with log.spectrum_every=20 or so")
    _save(given.out / "map.svg", [_map], (4.6, 3.2))
    _save(given.out / "spectra.svg", [lambda ax, w=w: _spectra(ax, runs, w) for w in ("before", "after")], (9, 3.2))
    _save(given.out / "rank.svg", [lambda ax: _rank(ax, runs)], (6, 3.2))


def _map(ax: Axes) -> None:
    """An eigenvalue after the transformation against its share of the trace before it, each a function of it alone."""
    import torch

    from fastintl.training import spectrum

    share = torch.logspace(-4, 0, 200, dtype=torch.float64)
    for iterations in (1, 2, 4, 7):
        # The rest of the trace makes each share what it is.
        after = [spectrum.whitened(torch.stack([s, 1 - s]), iterations)[0] for s in share]
        ax.loglog(share, after, label=f"IterNorm, T = {iterations}")
    ax.loglog(share, torch.ones_like(share), "k--", label="hard whitening")
    ax.loglog(share, share ** (1 - 2 * 0.4), "k:", label="power 0.4")
    ax.set(xlabel="eigenvalue before, share of the trace", ylabel="eigenvalue after", ylim=(1e-4, 2))
    ax.legend(fontsize=7)


def _spectra(ax: Axes, runs: list[RunRecord], which: str) -> None:
    for run in runs:
        last = [row["spectrum"] for row in run.rows if "spectrum" in row][-1]
        largest = max(last[which][0], 1e-30)
        points = [
            (rank, value / largest) for rank, value in zip(last["ranks"], last[which], strict=True) if value > 0
        ]
        ax.loglog(*zip(*points, strict=True), label=run.label)
    ax.set(title=f"{which} the transformation", xlabel="rank", ylabel="eigenvalue by the largest", ylim=(1e-6, 2))
    if which == "after":
        ax.legend(**_BESIDE)


def _rank(ax: Axes, runs: list[RunRecord]) -> None:
    for run in runs:
        (line,) = ax.plot(*run.series("effective_rank"), label=run.label)
        ax.plot(*run.series("effective_rank_whitened"), "--", color=line.get_color())
    ax.set(xlabel="epoch", ylabel="effective rank (dashed: after)", ylim=(0, None))
    ax.legend(**_BESIDE)


def _save(path: Path, panels: list, size: tuple[float, float]) -> None:
    """Draws the panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    for i, draw in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), i + 1))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    print(path)


if __name__ == "__main__":
    main()
