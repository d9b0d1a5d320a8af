"""The processes under a command that a test started, read from /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

TIME_LIMIT_S = 600


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``; torchrun gives each of its workers a session of its own, so that no process group
    holds them all."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name, which may hold anything) state parent ...
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    below, front = [], [pid]
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        below += front
    return below


def workers(pid: int) -> dict[int, int]:
    """The training processes below a ``torchrun``: process id by rank."""
    found = {}
    for process in descendants(pid):
        with suppress(OSError):
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            found |= {int(entry[5:]): process for entry in environment if entry.startswith(b"RANK=")}
    return found


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to a command and everything below it, and waits for its end; nothing if it has ended."""
    family = [process.pid, *descendants(process.pid)]
    if process.poll() is None:
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def wait_for(condition, process: subprocess.Popen) -> None:
    """Waits until ``condition()`` holds; fails if the command ends before."""
    deadline = time.monotonic() + TIME_LIMIT_S
    while not condition():
        assert process.poll() is None, f"the command ended with status {process.returncode}"
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)
