"""The process group: which rank this process is, how it joins the others, and how it leaves them."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from loaders.errors import USER_ERROR_STATUS, UserError

_CURE = "start several ranks with torchrun, which sets all of these, or unset RANK, WORLD_SIZE and LOCAL_RANK for one"
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Where this process stands among the ranks of a run. ``close()`` it (or use ``with``) at the end."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def from_main(self, compute: Callable[[], T]) -> T:
        """What ``compute`` returns on the first rank, on every rank; pickle must be able to carry it."""
        found = [compute() if self.is_main else None]
        if self.world_size > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def close(self) -> None:
        """Leaves the process groups; to be called when nothing else holds one, for its threads end with it.

        A thread of gloo's that still waits for Python's lock when the interpreter ends aborts the process.
        """
        if dist.is_initialized():
            gc.collect()  # models and steps refer to each other in circles
            dist.destroy_process_group()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind, error, stack) -> None:
        traceback.clear_frames(stack)  # what an error keeps alive of the run, the process groups among it
        if error is not None and self.world_size > 1 and self.device.type == "cuda":
            # To close NCCL's groups is a collective: a rank that fails alone would wait for the others, which wait for
            # it in another one, and neither would its error be told nor torchrun see its end.
            atexit.register(_end_at_once, _exit_status(error))
        else:
            self.close()


def start(device: str = "auto") -> World:
    """Joins the ranks that ``torchrun`` started (NCCL on GPUs, gloo on CPUs); alone under plain ``python``.

    Args:
        device: "cuda", "cpu", or "auto": a GPU where there is one.

    Raises:
        UserError: an unknown device, a GPU asked for where there is none or that torch was not built for, more ranks on
            a host than GPUs, or half an environment of ranks.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {device!r}; it must be auto, cpu or cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    rank, world_size, local_rank = _ranks(device)
    here = torch.device("cpu")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device is cuda, but torch sees no GPU; set device=cpu or check the driver with nvidia-smi")
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started more ranks on this host than its {torch.cuda.device_count()} GPU(s); "
                f"set --nproc-per-node {torch.cuda.device_count()}"
            )
        here = torch.device("cuda", local_rank)
        _require_code_for(here)
        torch.cuda.set_device(here)
    if world_size > 1:
        try:
            if device == "cuda":
                dist.init_process_group("nccl", device_id=here)
            else:
                dist.init_process_group("gloo")
        except (RuntimeError, ValueError, OSError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise UserError(
                f"the {world_size} ranks cannot join at {where} ({' '.join(str(error).split())[:200]}): start all of "
                "them with torchrun, or unset WORLD_SIZE for one process"
            ) from error
    return World(rank, world_size, local_rank, here)


def has_code_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code for some of these architectures runs on a GPU.

    Args:
        capability: the GPU's, such as (7, 0).
        architectures: as ``torch.cuda.get_arch_list`` names them: sm_80 is machine code, for 8.0 up to 8.9, compute_90
            is PTX, which a driver compiles for 9.0 and all later. Where none has such a name it is no matter of CUDA.
    """
    named = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in architectures]
    built = [(kind[1], (int(kind[2]), int(kind[3]))) for kind in named if kind]
    return not built or any(at <= capability and (kind == "compute" or at[0] == capability[0]) for kind, at in built)


def _require_code_for(device: torch.device) -> None:
    """Refuses a GPU that this build of torch has no code for, whose first operation would end in a traceback."""
    capability = torch.cuda.get_device_capability(device)
    if not has_code_for(capability, torch.cuda.get_arch_list()):
        raise UserError(
            f"torch {torch.__version__} was built without code for {torch.cuda.get_device_name(device)} (compute "
            f"capability {capability[0]}.{capability[1]}): a V100 needs pip install torch==2.10.0 torchvision==0.25.0, "
            "a GPU that is newer than this torch a newer one; or set device=cpu"
        )


def environment_number(name: str, default: int, least: int = 0) -> int:
    """A whole number that ``torchrun`` leaves in the environment; ``default`` where it is not set.

    Raises:
        UserError: it is something else.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise UserError(f"{name}={text} in the environment is no whole number of {least} or more; {_CURE}")
    return int(text)


def _ranks(device: str) -> tuple[int, int, int]:
    """Rank, world size and local rank as ``torchrun`` sets them; refuses an environment that would wait for ever, or
    take one process for a part of several."""
    world_size = environment_number("WORLD_SIZE", 1, least=1)
    rank, local_rank = environment_number("RANK", 0), environment_number("LOCAL_RANK", 0)
    environment_number("LOCAL_WORLD_SIZE", 1, least=1)
    if rank >= world_size:
        stated = f"WORLD_SIZE={world_size}" if "WORLD_SIZE" in os.environ else "no WORLD_SIZE"
        raise UserError(f"RANK={rank} and {stated} in the environment do not fit; {_CURE}")
    if world_size == 1:
        return rank, world_size, local_rank
    needed = ["RANK", "MASTER_ADDR", "MASTER_PORT", *(["LOCAL_RANK"] if device == "cuda" else [])]
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise UserError(f"WORLD_SIZE={world_size} is in the environment, but not {', '.join(missing)}; {_CURE}")
    if environment_number("MASTER_PORT", 0) > 65535:
        raise UserError(f"MASTER_PORT={os.environ['MASTER_PORT']} in the environment is above 65535; {_CURE}")
    return rank, world_size, local_rank


def _exit_status(error: BaseException) -> int:
    """With which Python, or ``loaders.errors.exit_on_user_error``, ends on an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, UserError):
        return USER_ERROR_STATUS
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _end_at_once(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def world_size() -> int:
    """Ranks of this run, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1
