"""Draws a small dataset, learns from it without labels, and prints how well that went.

    python tools/demo.py
    python tools/demo.py train.epochs=2

It is the recipe demo, two to six minutes on two CPU cores. The images are drawn into data/demo, once; the run is
runs/demo, and a finished one is begun anew. Its page, report.html, shows nearest neighbours and a map at the end.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl import config as configuration  # noqa: E402
from loaders.errors import exit_on_user_error  # noqa: E402
from loaders.startup import late_imports  # noqa: E402

_RUN = Path("runs/demo")  # what other names hold may be somebody's own: it is left alone


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
    config = configuration.load("demo", parser.parse_args(words).overrides)

    with late_imports(crops_on=config.train.device):
        from fastintl.training.pretraining import pretrain  # late: --help needs no torch
        from loaders.beton.dataset import convert_dataset, print_reports
        from loaders.beton.encoding import Storage

    data, run = Path(config.data.root), Path(config.out) / str(config.name)
    if not all((data / f"demo_{part}.beton").is_file() for part in ("train", "val")):
        print_reports(convert_dataset("demo", None, data, Storage()))
    if run == _RUN and (run / "summary.json").is_file():
        print(f"{run} is a finished run: starting anew")
        shutil.rmtree(run)
    pretrain(config)
    _show(run)


def _show(run: Path) -> None:
    """Adds what was learnt to the run's page; the features stay with the run, which a new one takes the place of."""
    if __package__:
        from . import neighbours
    else:
        from tools import neighbours

    neighbours.main([str(run), "--features", str(run / "features"), "--device", "cpu"])


if __name__ == "__main__":
    main()
