"""Kills a small training run again and again, and checks that nothing is lost.

    python tests/chaos.py --kills 50 --ranks 2

Every process of the run gets SIGKILL at a random moment, and the same command is started again at once. Half of the
kills come up to ten seconds after the start, wherever the run is then; half come within a second of its first new
checkpoint, while it trains and saves. After each kill every checkpoint must be readable. At the end weights and
momenta must equal, bit for bit, those of a run that nothing interrupted. An exception if anything is not so.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers.processes import kill, wait_for  # noqa: E402
from tests.helpers.training import assert_identical, command, last_state, saved_step, start, write_images  # noqa: E402

# Long enough not to end before the last kill; saved after every step, so that it gets on.
SETTINGS = {"train__epochs": 100, "train__save_minutes": 1e-6, "eval__every": 25, "train__keep_every": 50}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the delays")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        survive(Path(folder), given.kills, given.ranks, random.Random(given.seed))


def survive(folder: Path, kills: int, ranks: int, rng: random.Random) -> None:
    """Trains once without and once with kills, and compares."""
    images = write_images(folder / "images")
    begin = time.monotonic()
    run_to_the_end(folder / "whole", images, ranks)
    print(f"without kills: {saved_step(folder / 'whole')} steps in {time.monotonic() - begin:.0f} s", flush=True)
    readable = 0
    for number in range(1, kills + 1):
        moment = start_and_kill(folder / "killed", images, ranks, rng)
        states = read_checkpoints(folder / "killed" / "run" / "checkpoints")
        readable += len(states)
        newest = max((state["step"] for state in states.values()), default=0)
        print(f"kill {number:2}, {moment}: {len(states)} checkpoints, all whole, newest of step {newest}", flush=True)
    run_to_the_end(folder / "killed", images, ranks)
    assert_identical(last_state(folder / "whole"), last_state(folder / "killed"))
    print(f"{kills} kills, {readable} checkpoints read, none damaged; the final weights and momenta are identical")


def run_to_the_end(out: Path, images: Path, ranks: int) -> None:
    output = out.parent / "output.txt"
    assert start(command(out, images, ranks, **SETTINGS), output).wait() == 0, output.read_text()


def start_and_kill(out: Path, images: Path, ranks: int, rng: random.Random) -> str:
    """Starts the run and kills all of it; says when."""
    output, before, begin = out.parent / "output.txt", saved_step(out), time.monotonic()
    process = start(command(out, images, ranks, **SETTINGS), output)
    if rng.random() < 0.5:
        moment, delay = "after the start", rng.uniform(0, 10)
    else:
        moment, delay = "in training", rng.uniform(0, 1)
        wait_for(lambda: saved_step(out) > before, process)
    time.sleep(delay)
    assert process.poll() is None, f"it ended before the kill:\n{output.read_text()}"
    kill(process)
    return f"{time.monotonic() - begin:5.2f} s {moment}"


def read_checkpoints(folder: Path) -> dict[str, dict]:
    """Every checkpoint there, by name; raises if one is damaged."""
    return {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


if __name__ == "__main__":
    main()
