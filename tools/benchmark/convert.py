"""Compares ways to write a folder of images as one file; see ``converters``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import loaders
from tools.benchmark.loader import Target, ratio
from tools.benchmark.worker import Contender

OURS, FFCV, PIL, DECODE = "ours", "FFCV's DatasetWriter", "PIL loop", "decode alone"
_MODULE = "tools.benchmark.converters"


def contenders(cores: int) -> list[Contender]:
    """Who runs against whom, on one core and on all."""
    found = [Contender(PIL, _MODULE, "pil_loop", 1)]
    for many in sorted({1, cores}):
        found.append(Contender(FFCV, _MODULE, "ffcv_writer", many))
        found.append(Contender(OURS, _MODULE, "ours", many))
        found.append(Contender(DECODE, _MODULE, "decode_alone", many))
    return found


def compare(data: Path, group: list[Contender], rounds: int, note: Callable[[str], None]) -> None:
    """Converts all images of the folder ``data`` with each in turn, ``rounds`` times; fills their ``samples``."""
    for round_ in range(rounds):
        for contender in group:
            note(f"round {round_ + 1} of {rounds}: {contender.name} on {contender.cores}")
            if contender.error is None:
                _time(contender, data)


def targets(group: list[Contender], cores: int) -> list[Target]:
    """Ratios that tell where the time goes; nothing was promised."""
    by = {(contender.name, contender.cores): contender for contender in group}

    def target(first: tuple[str, int], second: tuple[str, int]) -> Target:
        what = " : ".join(f"{name}, {many} core{'s' * (many > 1)}" for name, many in (first, second))
        return Target(what, None, ratio(by[first], by[second]))

    pairs = [((OURS, 1), (PIL, 1)), ((OURS, 1), (FFCV, 1)), ((OURS, 1), (DECODE, 1))]
    if cores > 1:
        pairs += [((OURS, cores), (FFCV, cores)), ((OURS, cores), (DECODE, cores)), ((OURS, cores), (OURS, 1))]
    return [target(*pair) for pair in pairs]


def _time(contender: Contender, data: Path) -> None:
    """One conversion in a fresh process, so that nothing that others imported counts as its memory."""
    cores = sorted(os.sched_getaffinity(0))[: contender.cores]
    command = [sys.executable, "-m", contender.module, contender.function, data.resolve(), json.dumps(cores)]
    run = subprocess.run(command, cwd=Path(loaders.__file__).parent.parent, capture_output=True, text=True)
    if run.returncode:
        contender.error = (run.stderr.splitlines() or ["its process died"])[-1][:300]
        return
    found = json.loads(run.stdout.splitlines()[-1])
    contender.samples.append((found["rate"], found["cpu"]))
    contender.peak_bytes = max(contender.peak_bytes, found["peak"])
