"""Runs of ``python -m fastintl.train`` as a user starts them, on a dataset that takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.helpers import warm_python

ROOT = Path(__file__).resolve().parents[2]

# Six steps an epoch, 24 in all, on the 48 images of write_images().
SMALL = {
    "data.source": "folder",
    "data.threads": 1,
    "train.device": "cpu",
    "train.epochs": 4,
    "train.batch_size": 8,
    "optim.warmup_epochs": 1,
    "model.arch": "resnet8",
    "model.stem": "small",
    "model.zero_init_residual": "false",
    "model.projector": "[32,32]",
    "crops.sizes": "[20,20,16]",
    "crops.scales": "[[0.3,1],[0.3,1],[0.2,0.6]]",
    "crops.blur": "[0.5,0.5,0.5]",
    "crops.solarize": "[0.1,0.1,0.1]",
    "eval.every": 2,
    "eval.resize": 24,
    "eval.size": 24,
    "log.every": 2,
}


def write_images(root: Path) -> Path:
    """``root/train`` and ``root/val``: three classes of stripes, 48 and 15 images."""
    for split, count in (("train", 48), ("val", 15)):
        for i in range(count):
            rng = np.random.default_rng((i, split == "val"))
            label = i % 3
            y, x = np.mgrid[:28, :36]
            wave = np.sin((x * (label == 0) + y * (label == 1) + (x + y) * (label == 2)) * 0.8 + rng.uniform(0, 6))
            pixels = 128 + 60 * wave[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 10, (28, 36, 3))
            path = root / split / f"class{label}" / f"{i:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=92)
    return root


def command(out: Path, data: Path | None, ranks: int = 1, launcher: tuple[str, ...] = (), **changes) -> list[str]:
    """The command line of a small run in ``out/run``.

    Args:
        launcher: options of torchrun in place of those for ``ranks`` on this machine.
        changes: keys with ``__`` for the dot.
    """
    keys = {**SMALL, "out": out, **({"data.root": data} if data else {})}
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    if ranks > 1 and not launcher:
        launcher = ("--standalone", "--nproc-per-node", str(ranks))
    torchrun = ["-m", "torch.distributed.run", *launcher] if launcher else []
    return [sys.executable, *torchrun, "-m", "fastintl.train", *(f"{key}={value}" for key, value in keys.items())]


def start(arguments: list[str], output: Path, **variables: str) -> warm_python.Process | subprocess.Popen:
    """Starts a ``command`` whose output goes to a file; ``variables`` are added to its environment."""
    with open(output, "w") as file:
        return warm_python.start(arguments, file, file, env={**environment(), **variables}, cwd=ROOT)


def environment() -> dict[str, str]:
    # One thread, so that the order of summation does not depend on what else the machine does.
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def train(out: Path, data: Path | None, ranks: int = 1, **changes) -> subprocess.CompletedProcess:
    """Runs it to its end and returns its status and output."""
    return warm_python.run(command(out, data, ranks, **changes), env=environment(), cwd=ROOT)


def train_on_ranks(out: Path, data: Path | None, ranks: int, **changes) -> subprocess.CompletedProcess:
    """The same on ranks that torchrun does not watch over: for runs whose ranks all come to their end."""
    return warm_python.run_on_ranks(command(out, data, **changes), ranks, env=environment(), cwd=ROOT)


def saved_step(out: Path) -> int:
    """The step of the newest checkpoint of ``out/run``; 0 if there is none."""
    return max((int(path.stem[5:]) for path in (out / "run" / "checkpoints").glob("step_*.pt")), default=0)


def last_state(out: Path) -> dict:
    """The newest checkpoint of ``out/run``."""
    return torch.load(max((out / "run" / "checkpoints").glob("step_*.pt")), weights_only=True)


def assert_identical(first: dict, second: dict) -> None:
    """Compares the models and the optimisers' momenta of two checkpoints, bit for bit."""
    assert_close(first, second, 0.0)
    momenta = (first["optimizer"]["state"], second["optimizer"]["state"])
    for i in momenta[0] | momenta[1]:
        for name in momenta[0][i] | momenta[1][i]:
            assert torch.equal(momenta[0][i][name], momenta[1][i][name])


def assert_close(first: dict, second: dict, tolerance: float) -> None:
    """Compares the models of two checkpoints."""
    assert first["step"] == second["step"]
    for key in first["model"] | second["model"]:
        assert _difference(first, second, key) <= tolerance, key


def distance(first: dict, second: dict) -> float:
    """The largest difference of a tensor in the models of two checkpoints."""
    return max(_difference(first, second, key) for key in first["model"] | second["model"])


def _difference(first: dict, second: dict, key: str) -> float:
    """Of a tensor, relative to its norm (or to 0.01)."""
    a, b = first["model"][key].double(), second["model"][key].double()
    return ((a - b).norm() / max(a.norm(), 0.01)).item()
