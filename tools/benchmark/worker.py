"""One contender in a process of its own: pinned to its cores, warmed up, then timed whenever it is asked."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tools.benchmark.workload import Workload

_AHEAD = 6  # batches that a loader with queues may hold when its round begins
_LEAVING_SECONDS = 5


@dataclass
class Contender:
    """A way to make crops, and what was measured of it.

    Attributes:
        name: for the table.
        module, function, arguments: where its iterator comes from; imported in the worker only.
        cores: how many it runs on.
        processes: of how many processes it consists; each has its part of the cores to itself.
        works_ahead: whether it has queues that fill while it is not asked.
        samples: of every round, images a second of wall time, and CPU seconds an image.
        error: why it could not run.
    """

    name: str
    module: str
    function: str
    cores: int
    arguments: tuple[str, ...] = ()
    works_ahead: bool = True
    processes: int = 1
    samples: list[tuple[float, float]] = field(default_factory=list)
    peak_bytes: int = 0
    error: str | None = None


class Worker:
    """A process of a contender, the ``place``-th; between ``begin_round`` and ``end_round`` it makes crops.

    It is halted while it is not asked: what loaders do between rounds, filling their queues and spinning for the next
    task, would be taken from the one that is timed.
    """

    def __init__(self, contender: Contender, work: Workload, place: int = 0) -> None:
        # A server that has imported torch already forks the workers: importing it takes seconds each time.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torchvision", "numba"])
        self.contender = contender
        share = contender.cores // contender.processes
        cores = sorted(os.sched_getaffinity(0))[place * share : (place + 1) * share]
        self._pipe, theirs = context.Pipe()
        work = replace(work, threads=len(cores))
        self._process = context.Process(target=_serve, args=(contender, work, cores, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def wait_until_warm(self) -> None:
        self._receive()
        self._signal(signal.SIGSTOP)

    def begin_round(self, seconds: float) -> None:
        self._signal(signal.SIGCONT)
        self._pipe.send(seconds)

    def end_round(self) -> tuple[float, float, int] | None:
        """Images a second, CPU seconds an image and peak bytes; None if it failed (``contender.error``)."""
        answer = self._receive()
        self._signal(signal.SIGSTOP)
        return answer

    def stop(self) -> None:
        """Ends the process: by itself, so that it gives back its semaphores, else by force."""
        self._pipe.close()
        self._signal(signal.SIGCONT)
        self._process.join(_LEAVING_SECONDS)
        self._process.kill()
        self._process.join()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def _receive(self):
        try:
            error, answer = self._pipe.recv()
        except EOFError:
            error, answer = "its process died", None
        self.contender.error = self.contender.error or error
        return answer


def time_round(workers: list[Worker], seconds: float) -> None:
    """Times a contender's workers, all at once, for about so many seconds and keeps the sample."""
    contender = workers[0].contender
    if contender.error is not None:
        return
    for worker in workers:
        worker.begin_round(seconds)
    answers = [worker.end_round() for worker in workers]
    if None not in answers:
        rates, cpu, peaks = zip(*answers, strict=True)
        contender.samples.append((sum(rates), sum(cpu) / len(cpu)))
        contender.peak_bytes = sum(peaks)


def _serve(contender: Contender, work: Workload, cores: list[int], pipe) -> None:
    os.sched_setaffinity(0, cores)
    try:
        made = _open(contender, work)
        _take(made, seconds=0.5, least=1)  # compiles, fills caches
        pipe.send((None, None))
        while True:
            seconds = pipe.recv()
            if contender.works_ahead:
                _take(made, seconds=0.0, least=_AHEAD * work.batch_size)
            start, cpu = time.perf_counter(), time.process_time()
            count = _take(made, seconds, least=1)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send((None, (count / wall, cpu / count, peak)))
    except EOFError:
        pass
    except Exception as error:  # told to the parent, which leaves the contender out and says why
        pipe.send((f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", None))


def _open(contender: Contender, work: Workload) -> Iterator[int]:
    import torch

    torch.set_num_threads(work.threads)
    return getattr(importlib.import_module(contender.module), contender.function)(work, *contender.arguments)


def _take(made: Iterator[int], seconds: float, least: int) -> int:
    """Takes images for so many seconds, and at least so many; returns how many."""
    count, end = 0, time.perf_counter() + seconds
    while count < least or time.perf_counter() < end:
        count += next(made)
    return count
