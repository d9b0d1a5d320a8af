"""Compares ways to write a folder of pictures as one file; see ``converters``."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loaders.benchmark.loader import Target, ratio
from loaders.benchmark.worker import Contender
from loaders.datasets.folder import class_tree, take

OURS, FFCV, PIL, DECODE = "fastintl", "FFCV's DatasetWriter", "PIL loop", "decode alone"
_MODULE = "loaders.benchmark.converters"
_WARM_UP_PICTURES = 8


def contenders(cores: int) -> list[Contender]:
    """Who runs against whom, on one core and on all."""
    found = [Contender(PIL, _MODULE, "pil_loop", 1)]
    for many in sorted({1, cores}):
        found.append(Contender(FFCV, _MODULE, "ffcv_writer", many))
        found.append(Contender(OURS, _MODULE, "ours", many))
        found.append(Contender(DECODE, _MODULE, "decode_alone", many))
    return found


def compare(data: Path, group: list[Contender], rounds: int, note: Callable[[str], None]) -> None:
    """Converts all pictures of the folder ``data`` with each in turn, ``rounds`` times; fills their ``samples``."""
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
    """One conversion in a fresh process; it is no daemon, for FFCV's writer has processes of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loaders.benchmark.converters", "torch"])
    ours, theirs = context.Pipe()
    cores = sorted(os.sched_getaffinity(0))[: contender.cores]
    process = context.Process(target=_serve, args=(contender, data, cores, theirs))
    process.start()
    theirs.close()
    try:
        contender.error, sample, peak = ours.recv()
    except EOFError:
        contender.error, sample, peak = "its process died", None, 0
    process.join()
    if sample:
        contender.samples.append(sample)
        contender.peak_bytes = max(contender.peak_bytes, peak)


def _serve(contender: Contender, data: Path, cores: list[int], pipe) -> None:
    os.sched_setaffinity(0, cores)
    try:
        write = getattr(importlib.import_module(contender.module), contender.function)
        split = class_tree(data)
        with tempfile.TemporaryDirectory() as place:
            write(take(split, range(min(_WARM_UP_PICTURES, len(split)))), Path(place) / "first.beton", len(cores))
            start, cpu = time.perf_counter(), _cpu_seconds()
            write(split, Path(place) / "all.beton", len(cores))
            wall, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
        pipe.send((None, (len(split) / wall, cpu / len(split)), _peak_bytes(len(cores))))
    except Exception as error:  # told to the parent, which leaves the contender out and says why
        pipe.send((f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", None, 0))


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _peak_bytes(processes: int) -> int:
    """Of this process and, counted whole, as many as the largest that it has waited for."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * (own + processes * child)
