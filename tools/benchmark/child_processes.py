"""A loader's pipeline in processes of its own, pinned to their cores and stopped while others are timed.

What a loader does between its rounds, filling its queues and spinning for the next task, would be taken from the one
that is timed.
"""

from __future__ import annotations

import os
import resource
import signal
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import torch

from loaders.errors import UserError
from loaders.planning.rates import measure, take
from loaders.startup import fork_server

from . import loader_pipelines
from .contenders import Rounds, sentence
from .loader_pipelines import Workload

_AHEAD = 6  # batches that a pipeline with queues may hold when its round begins
_WARM_UP_SECONDS = 0.5  # at the most; no longer than a round
_LEAVING_SECONDS = 5


@dataclass(frozen=True)
class Pipeline:
    """A pipeline and the processes that it runs in.

    Attributes:
        function, arguments: a function of ``loader_pipelines``, and what it takes behind the workload.
        cores: how many cores it runs on.
        works_ahead: whether it has queues that fill while it is not asked.
        processes: how many processes it consists of; each has its part of the cores to itself.
    """

    function: str
    cores: int
    arguments: tuple[str, ...] = ()
    works_ahead: bool = True
    processes: int = 1


def timed_in_processes(pipeline: Pipeline, work: Workload, seconds: float) -> Rounds:
    """Rounds of a pipeline, of about so many seconds: the images/s and the peak memory of all its processes, and the
    processor seconds of an image."""
    share, cores = pipeline.cores // pipeline.processes, sorted(os.sched_getaffinity(0))
    with ExitStack() as started:
        children = []
        for place in range(pipeline.processes):
            children.append(_Child(pipeline, work, cores[place * share : (place + 1) * share], seconds))
            started.callback(children[-1].end)
            children[-1].receive()  # warm; one after the other, since two would share the cores
            children[-1].signal(signal.SIGSTOP)
        yield {}
        while True:
            for child in children:
                child.signal(signal.SIGCONT)
                child.pipe.send(seconds)
            answers = [child.receive() for child in children]
            for child in children:
                child.signal(signal.SIGSTOP)
            found = {name: sum(answer[name] for answer in answers) for name in answers[0]}
            yield found | {"cpu_seconds_per_image": found["cpu_seconds_per_image"] / len(answers)}


class _Child:
    """One process of a pipeline."""

    def __init__(self, pipeline: Pipeline, work: Workload, cores: list[int], seconds: float) -> None:
        # A server that has imported torch already forks the processes: importing it takes seconds each time.
        context = fork_server("torch", "torchvision", "numba")
        self.pipe, theirs = context.Pipe()
        arguments = (pipeline, replace(work, threads=len(cores)), cores, min(seconds, _WARM_UP_SECONDS), theirs)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def receive(self) -> dict[str, float]:
        """What it measured; raises ``UserError`` with its words where it failed."""
        try:
            answer = self.pipe.recv()
        except EOFError:
            answer = "its process died"
        if isinstance(answer, str):
            raise UserError(answer)
        return answer

    def end(self) -> None:
        """Ends the process: by itself, so that it gives back its semaphores, else by force."""
        self.pipe.close()
        self.signal(signal.SIGCONT)
        self._process.join(_LEAVING_SECONDS)
        self._process.kill()
        self._process.join()


def _serve(pipeline: Pipeline, work: Workload, cores: list[int], warm_up: float, pipe) -> None:
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(work.threads)
    try:
        ready = getattr(loader_pipelines, pipeline.function)(work, *pipeline.arguments)
        take(ready, warm_up)  # compiles, fills caches
        pipe.send({})
        while True:
            seconds = pipe.recv()
            if pipeline.works_ahead:
                take(ready, 0, _AHEAD * work.batch_size)
            rate = measure(ready, seconds)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send({**asdict(rate), "peak_bytes": peak})
    except EOFError:
        pass
    except Exception as error:
        pipe.send(sentence(error))
