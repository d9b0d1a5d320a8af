"""Runs a task of ``tools.fidelity.theirs`` in a process of its own, and brings its answer here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from loaders.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]


def ask(module: str, function: str, job: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Has ``tools.fidelity.theirs.MODULE.FUNCTION`` answer a job of plain values and tensors.

    Args:
        folder: in which the process works, and finds what it left there before; None takes a new one.

    Raises:
        UserError: their code has ended with an error; the sentence has its last line and names the log.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as new:
            return ask(module, function, job, Path(new))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.pt"
    torch.save(job, file)
    run("the authors' code", "tools.fidelity.theirs", [module, function, str(file.absolute())], folder)
    answer = torch.load(file)
    file.unlink()
    return answer


def run(whose: str, module: str, words: Sequence[str], folder: Path | None = None) -> None:
    """``python -m module words…`` in a folder; what it says is kept if it fails.

    Raises:
        UserError: it has ended with an error, in a sentence that begins with ``whose``.
    """
    with tempfile.NamedTemporaryFile("w+", prefix="against_authors_", suffix=".log", delete=False) as log:
        command, environment = [sys.executable, "-m", module, *words], {**os.environ, "PYTHONPATH": str(_ROOT)}
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        log.seek(0)
        lines = log.read().strip().splitlines()
    if ended.returncode:
        last = lines[-1].removeprefix("error: ") if lines else "without a word"
        raise UserError(f"{whose} ended with an error: {last} ({log.name} has all that it said)")
    os.unlink(log.name)
