"""Lays this project beside the authors' own code of INTL and CW-RGP, on a CPU.

    git clone https://github.com/winci-ai/INTL && git clone https://github.com/winci-ai/CW-RGP
    python tools/against_authors.py --intl INTL --cw-rgp CW-RGP --data data/cifar10 --photographs photographs

The parts: steps (the schedules of every recipe, and the first steps of a training from the same weights on the same
crops), crops (the same images through both augmentations), training (from scratch on CIFAR-10, a small network) and
evaluation (the protocols, on the same features). The authors' code is imported from the checkouts, in a process of
its own; stand-ins take the place of CUDA, wandb and several GPUs. docs/fidelity.md explains the tables.

The same command again trains nothing twice, and goes on with a training that was stopped. It ends with status 1 if
the first steps or a schedule do not agree.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import UserError, exit_on_user_error  # noqa: E402
from tools.fidelity.checkouts import Checkouts  # noqa: E402

_PARTS = ("steps", "crops", "training", "evaluation")
_DROPPED_BATCH = 1000  # the authors' evaluation leaves out a last batch of fewer training images


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--intl", type=Path, required=True, metavar="CHECKOUT", help="of winci-ai/INTL")
    parser.add_argument("--cw-rgp", type=Path, required=True, metavar="CHECKOUT", help="of winci-ai/CW-RGP")
    text = "CIFAR-10: its public files (tools/download.py), or class folders train/ and test/ (default: data/cifar10)"
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"), help=text)
    text = "images of any sizes in class folders, for the augmentation of ImageNet (default: that is left out)"
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="default: all")
    parser.add_argument("--images", type=int, default=10_000, help="of CIFAR-10 that are used (default: 10000)")
    parser.add_argument("--minutes", type=float, default=30, help="for all trainings from scratch (default: 30)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings from scratch, of each side (default: 2)")
    text = "folder that keeps the trainings (default: runs/against_authors)"
    parser.add_argument("--out", type=Path, default=Path("runs/against_authors"), help=text)
    text = "write all figures to this file, beside those of other parts that it holds"
    parser.add_argument("--json", type=Path, metavar="FILE", help=text)
    return parser.parse_args(words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    if arguments.images < 1 or arguments.images % _DROPPED_BATCH:
        raise UserError(f"--images {arguments.images}: the authors' evaluation wants a multiple of {_DROPPED_BATCH}")
    if arguments.minutes <= 0 or arguments.seeds < 1:
        raise UserError("--minutes and --seeds must be positive")
    checkouts = Checkouts(arguments.intl, arguments.cw_rgp)
    checkouts.check()

    from tools.fidelity.command import run

    sys.exit(0 if run(arguments, checkouts) else 1)


if __name__ == "__main__":
    main()
