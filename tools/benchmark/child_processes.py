"""A pipeline in processes of its own, pinned to their cores and stopped while others are timed.

What a loader does between its rounds, filling its queues and spinning for the next task, would be taken from the one
that is timed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from loaders.errors import UserError
from loaders.planning.rates import measure, take
from tools.benchmark.contenders import Rounds
from tools.benchmark.loader_pipelines import Workload

_AHEAD = 6  # batches that a pipeline with queues may hold when its round begins
_WARM_UP_SECONDS = 0.5
_LEAVING_SECONDS = 5


@dataclass(frozen=True)
class Pipeline:
    """A function that makes images ready, and the processes that it runs in.

    Attributes:
        module, function, arguments: what is called with the workload; it gives an endless iterator over the number of
            images that are ready. Imported in the processes only.
        cores: on how many it runs.
        works_ahead: whether it has queues that fill while it is not asked.
        processes: of how many it consists; each has its part of the cores to itself.
    """

    module: str
    function: str
    cores: int
    arguments: tuple[str, ...] = ()
    works_ahead: bool = True
    processes: int = 1


def timed_in_processes(pipeline: Pipeline, work: Workload, seconds: float) -> Rounds:
    """Rounds of a pipeline, of about so many seconds: images/s of all its processes, processor seconds an image, and
    their peak memory."""
    share = pipeline.cores // pipeline.processes
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as started:
        children = []
        for place in range(pipeline.processes):
            child = _Child(pipeline, work, cores[place * share : (place + 1) * share])
            started.callback(child.end)
            child.receive()  # warm; one after the other, since two would share the cores
            child.signal(signal.SIGSTOP)
            children.append(child)
        yield {}
        while True:
            for child in children:
                child.signal(signal.SIGCONT)
                child.pipe.send(seconds)
            answers = [child.receive() for child in children]
            for child in children:
                child.signal(signal.SIGSTOP)
            rates, cpu, peaks = zip(*answers, strict=True)
            yield {
                "images_per_second": sum(rates),
                "cpu_seconds_per_image": sum(cpu) / len(cpu),
                "peak_bytes": sum(peaks),
            }


class _Child:
    """One process of a pipeline."""

    def __init__(self, pipeline: Pipeline, work: Workload, cores: list[int]) -> None:
        # A server that has imported torch already forks the processes: importing it takes seconds each time.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torchvision", "numba"])
        self.pipe, theirs = context.Pipe()
        arguments = (pipeline, replace(work, threads=len(cores)), cores, theirs)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def receive(self) -> Any:
        """What it sends next; raises ``UserError`` with its words where it failed."""
        try:
            error, answer = self.pipe.recv()
        except EOFError:
            error, answer = "its process died", None
        if error is not None:
            raise UserError(error)
        return answer

    def end(self) -> None:
        """Ends the process: by itself, so that it gives back its semaphores, else by force."""
        self.pipe.close()
        self.signal(signal.SIGCONT)
        self._process.join(_LEAVING_SECONDS)
        self._process.kill()
        self._process.join()


def _serve(pipeline: Pipeline, work: Workload, cores: list[int], pipe) -> None:
    os.sched_setaffinity(0, cores)
    try:
        ready = _open(pipeline, work)
        take(ready, _WARM_UP_SECONDS)  # compiles, fills caches
        pipe.send((None, None))
        while True:
            seconds = pipe.recv()
            if pipeline.works_ahead:
                take(ready, 0, _AHEAD * work.batch_size)
            rate = measure(ready, seconds)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send((None, (rate.images_per_second, rate.cpu_seconds_per_image, peak)))
    except EOFError:
        pass
    except Exception as error:  # told to the parent, which leaves the contender out and says why
        pipe.send((f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", None))


def _open(pipeline: Pipeline, work: Workload) -> Iterator[int]:
    import torch

    torch.set_num_threads(work.threads)
    return getattr(importlib.import_module(pipeline.module), pipeline.function)(work, *pipeline.arguments)
