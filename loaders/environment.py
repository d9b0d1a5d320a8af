"""This machine and its software: processor, memory, GPUs, versions, revision."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = (
    "torch", "torchvision", "numpy", "numba", "triton", "ffcv", "nvidia-dali-cuda110", "nvidia-dali-cuda120",
    "nvidia-dali-cuda130", "simplejpeg", "pillow",
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """A GPU: ``capability`` is CUDA's compute capability, ``memory`` and ``free`` are bytes."""

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


def describe_environment() -> dict:
    """Everything about this machine and its software that a measurement or a run depends on, as plain values."""
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := package_version(name))},
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "command": ["python", *sys.orig_argv[1:]],
    }


def this_machine() -> Machine:
    """What this process can use."""
    return Machine(
        processor=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        free=free_bytes(torch.device("cpu")),
        gpus=[_gpu(torch.device("cuda", index)) for index in range(torch.cuda.device_count())],
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on ``device``; on the host without swapping, the page cache counted as free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def package_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    return Gpu(properties.name, f"{properties.major}.{properties.minor}", properties.total_memory, free_bytes(device))


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())


def _git(*words: str) -> str | None:
    try:
        here = Path(__file__).parent
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
