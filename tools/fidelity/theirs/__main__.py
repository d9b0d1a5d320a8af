"""``python -m tools.fidelity.theirs MODULE FUNCTION FILE``: reads the job from FILE, and writes the answer there."""

from __future__ import annotations

import importlib
import sys

import torch


def main(module: str, function: str, file: str) -> None:
    job = torch.load(file)
    answer = getattr(importlib.import_module(f"tools.fidelity.theirs.{module}"), function)(job)
    torch.save(answer, file)


main(*sys.argv[1:])
