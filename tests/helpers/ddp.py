"""Runs a test's function on several gloo ranks, in real processes."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from loaders.startup import fork_server

TIME_LIMIT_S = 300  # two compilers on a busy machine take minutes
_IMPORTED = ["torch", "fastintl.training.pretraining", "fastintl.detection.training"]


def run_ranks(function: Callable, *arguments, world_size: int = 2) -> list:
    """Calls ``function(*arguments)`` in ``world_size`` new processes that form a gloo process group.

    They are forks of a server that has imported torch and the project, which takes longer than most tests, and nothing
    else.

    Args:
        function: importable by name (a module's, not a local one).
        arguments: what pickle can carry.
        world_size: ranks; the environment is set as torchrun sets it.

    Returns:
        What each rank returned (anything ``torch.save`` can write), in rank order.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a rank failed; it carries the traceback.
        TimeoutError: the ranks wait for each other.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = (dict(os.environ), function, arguments, world_size, port, folder)
        fork_server(*_IMPORTED)
        context = mp.start_processes(_rank, words, nprocs=world_size, join=False, start_method="forkserver")
        deadline = time.monotonic() + TIME_LIMIT_S
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"{function.__name__} on {world_size} ranks ran past {TIME_LIMIT_S} s")
        return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(world_size)]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(
    rank: int, environment: dict, function: Callable, arguments: tuple, world_size: int, port: int, folder: str
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        environment,
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    dist.init_process_group("gloo")
    try:
        torch.save(function(*arguments), f"{folder}/{rank}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
