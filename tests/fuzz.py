"""Tries inputs of every form and damage against what must hold of each, and stops at nothing that is found.

    python tests/fuzz.py --minutes 30
    python tests/fuzz.py --minutes 5 --targets images coco --seed 7

The minutes are shared among the targets (all of tests/fuzzing/targets/), each of which runs in a process of its own
with its memory and time bounded. An example that fails is made as small as it gets and written to
OUT/TARGET.found.py, a program that shows the failure again (from the project's root, PYTHONPATH=. python FILE).
Status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import fuzzing  # noqa: E402
from tests.fuzzing.running import Outcome, fuzz  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    names = fuzzing.names()
    parser.add_argument("--targets", nargs="+", default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seed", type=int, help="of the examples; the time of day if it is not given")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzzing"), help="folder of what is found")
    parser.add_argument("--example-seconds", type=float, default=60, help="longer is taken for a hang")
    given = parser.parse_args()
    seed = int(time.time()) if given.seed is None else given.seed
    share = 60 * given.minutes / len(given.targets)
    print(f"seed {seed}, {share:.0f} s a target", flush=True)
    print(f"{'target':16}  {'examples':>8}  {'seconds':>7}  {'peak MB':>7}  found", flush=True)
    outcomes = []
    for target in given.targets:
        outcomes.append(fuzz(target, seed, share, given.out, given.example_seconds))
        print(_row(outcomes[-1]), flush=True)
    found = [outcome for outcome in outcomes if outcome.fault]
    print(f"{sum(outcome.examples for outcome in outcomes):,} examples, {len(found)} failures")
    sys.exit(1 if found else 0)


def _row(outcome: Outcome) -> str:
    name = outcome.target.rpartition(".")[2]
    told = f"{outcome.fault[:200]} ({outcome.file})" if outcome.fault else "nothing"
    return f"{name:16}  {outcome.examples:8,}  {outcome.seconds:7.0f}  {outcome.peak / 1e6:7,.0f}  {told}"


if __name__ == "__main__":
    main()
