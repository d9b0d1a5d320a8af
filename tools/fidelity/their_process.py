"""Runs a task of ``tools.fidelity.theirs`` in a process of its own, and brings its answer here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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
    file, log = folder / "job.pt", Path(tempfile.gettempdir()) / f"against_authors-{module}-{function}.log"
    torch.save(job, file)
    command = [sys.executable, "-m", "tools.fidelity.theirs", module, function, str(file.absolute())]
    with log.open("w") as output:
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if ended.returncode:
        last = (log.read_text().strip().splitlines() or ["without a word"])[-1]
        raise UserError(f"the authors' code ended with an error: {last} ({log} has all that it said)")
    answer = torch.load(file)
    file.unlink()
    return answer
