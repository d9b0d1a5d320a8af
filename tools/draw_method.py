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

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import exit_on_user_error  # noqa: E402


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as runs/demo")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the figures go")
    given = parser.parse_args(words)

    from fastintl.training.spectrum_figures import draw_spectra

    print(*draw_spectra(given.runs, given.out), sep="\n")


if __name__ == "__main__":
    main()
