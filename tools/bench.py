"""Measures speed, always as ratios within one run: python tools/bench.py PART [--json FILE]; PART --help tells more."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import exit_on_user_error  # noqa: E402

PARTS = {
    "loader": "from images on disk to crops",
    "step": "the training step on synthetic views",
    "train": "training with the loader, beside the step alone",
    "crops": "each engine's crops on this device beside the CPU's",
    "ranks": "the all-reduces of SyncBatchNorm, under torchrun",
    "knn": "nearest-neighbour search on the CPU",
    "probe": "linear heads on cached features",
    "convert": "from a folder of images to a .beton file",
    "scale": "opening, resuming and memory over the number of images",
    "plot": "draws the JSON of the others",
    "count": "launches, bytes and memory of a step, counted without a GPU",
    "gpu": "the first minutes on a GPU: tests, crops, training, memory, on one page",
    "tradeoff": "accuracy against compute: a recipe at several settings and seeds",
    "estimate": "hours and GPU-hours of a recipe, from measured rates",
    "costs": "what recipes cost at the least, as a table, from counts",
}


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a part, and its ``run``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, summary in PARTS.items():
        module = importlib.import_module(f"{__package__ or 'tools'}.benchmark.{name}")
        part = parts.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(part)
        part.set_defaults(run=module.run)
    # Through its parent a sub-parser would not take key=value words among its options.
    chosen = parts.choices.get(words[0]) if words else None
    return chosen.parse_intermixed_args(words[1:]) if chosen else parser.parse_args(words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    # So that what was started is ended: trainings save their state, and stopped processes do not stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = parse(sys.argv[1:] if words is None else words)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
