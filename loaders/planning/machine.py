"""The processor, the memory and the GPUs of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from loaders.environment import cpu_model
from loaders.free_memory import free_bytes


@dataclass(frozen=True)
class Gpu:
    """A GPU; ``capability`` is CUDA's compute capability, ``memory`` and ``free`` are bytes."""

    name: str
    capability: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """This machine.

    Attributes:
        processor: name of the CPU.
        cores: those that this process may use, hyperthreads counted.
        memory, free: bytes of the host's memory; what the page cache holds counts as free.
        gpus: those that PyTorch can use.
    """

    processor: str
    cores: int
    memory: int
    free: int
    gpus: list[Gpu]


def this_machine() -> Machine:
    return Machine(
        processor=cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        free=free_bytes(torch.device("cpu")),
        gpus=[_gpu(torch.device("cuda", index)) for index in range(torch.cuda.device_count())],
    )


def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    return Gpu(properties.name, f"{properties.major}.{properties.minor}", properties.total_memory, free_bytes(device))
