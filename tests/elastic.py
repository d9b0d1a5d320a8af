"""Two agents of torchrun on one machine, as on two nodes, that lose a worker, are signalled, and lose a whole agent.

    python tests/elastic.py

prints what happens, and the agents' own words, and checks the weights at the end. Where the number of ranks stays,
they must equal those of a run that nothing interrupted, bit for bit. Where it changes, sums are rounded in another
order: then they must be about as near to them as those of one rank that nothing interrupted. It raises otherwise.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers.ddp import free_port  # noqa: E402
from tests.helpers.processes import kill, wait_for, workers  # noqa: E402
from tests.helpers.training import assert_identical, command, distance, last_state, saved_step, start, write_images  # noqa: E402

# A low learning rate, since a high one amplifies a rounding from step to step.
LONG = {"train__epochs": 100, "train__save_minutes": 1e-6, "eval__every": 0, "optim__lr": 0.0005}


def start_agent(number: int, out: Path, data: Path, port: int, log: Path, nodes="2", **changes) -> subprocess.Popen:
    """One of the agents that meet at ``port``, with one worker. Agent 0 is where they meet: it must live on."""
    launcher = ("--nnodes", nodes, "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d")
    launcher += ("--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "test")
    launcher += ("--rdzv-conf", f"last_call_timeout=1,is_host={number == 0}")
    return start(command(out, data, launcher=launcher, **changes), log, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")


@contextmanager
def ended(agents: list[subprocess.Popen]) -> Iterator[None]:
    """Ends the agents that are left at the end, with their workers: those of a failed test would run on."""
    try:
        yield
    finally:
        for agent in agents:
            kill(agent)


def signal_worker(agent: subprocess.Popen, number: signal.Signals) -> int:
    """Sends a signal to the agent's worker; returns its rank."""
    ((rank, pid),) = workers(agent.pid).items()
    os.kill(pid, number)
    return rank


def wait_for_steps(out: Path, count: int, agent: subprocess.Popen) -> None:
    """Waits until ``count`` more steps are saved."""
    goal = saved_step(out) + count
    wait_for(lambda: saved_step(out) >= goal, agent)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_images(folder / "images")
        say("two ranks, then one, that nothing interrupts")
        for name, ranks in (("whole", 2), ("alone", 1)):
            log = folder / f"{name}.log"
            assert start(command(folder / name, data, ranks, **LONG), log).wait() == 0, log.read_text()
        lose_workers(folder, data)
        lose_an_agent(folder, data)


def lose_workers(folder: Path, data: Path) -> None:
    """The world stays of two ranks, so the weights must be the same to the bit."""
    out, port = folder / "workers", free_port()
    agents = [start_agent(i, out, data, port, folder / f"agent{i}.log", **LONG) for i in range(2)]
    with ended(agents):
        for steps, victim, number in ((20, 1, signal.SIGKILL), (40, 0, signal.SIGKILL), (40, 1, signal.SIGUSR1)):
            wait_for_steps(out, steps, agents[0])
            saved, rank = saved_step(out), signal_worker(agents[victim], number)
            say(f"{number.name} to the worker of agent {victim}, rank {rank}, after step {saved}")
        statuses = [agent.wait(300) for agent in agents]
    tell_logs(folder)
    assert statuses == [0, 0], statuses
    assert_identical(last_state(folder / "whole"), last_state(out))
    say(f"both agents ended with status 0 at step {saved_step(out)}: weights and momenta are identical\n")


def lose_an_agent(folder: Path, data: Path) -> None:
    """The world shrinks to one rank and grows again."""
    out, port = folder / "agents", free_port()
    agents = [start_agent(i, out, data, port, folder / f"agent{i}.log", "1:2", **LONG) for i in range(2)]
    with ended(agents):
        wait_for_steps(out, 20, agents[0])
        say(f"SIGKILL to agent 1 and its worker after step {saved_step(out)}")
        kill(agents[1])
        wait_for_steps(out, 40, agents[0])
        say(f"another agent 1 joins after step {saved_step(out)}")
        agents[1] = start_agent(1, out, data, port, folder / "again1.log", "1:2", **LONG)
        statuses = [agent.wait(300) for agent in agents]
    tell_logs(folder)
    assert statuses == [0, 0], statuses
    whole, alone, state = (last_state(folder / name) for name in ("whole", "alone", "agents"))
    usual, here = distance(whole, alone), distance(whole, state)
    say(f"both agents ended with status 0 at step {saved_step(out)}: weights within {here:.1e} of those of two ranks")
    say(f"that nothing interrupted; one rank that nothing interrupted comes within {usual:.1e} of them")
    assert here < 2 * usual


def tell_logs(folder: Path) -> None:
    """What the agents and the runs said, without Python's tracebacks."""
    wanted = re.compile(r"failed \(exitcode|Sending process|^(run|training)  |stopped by|^warning|^error|^\d+ steps in")
    for log in sorted(folder.glob("ag*[01].log")):
        for line in log.read_text().splitlines():
            if wanted.search(line):
                print(f"  {log.stem}: {line}")


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


if __name__ == "__main__":
    main()
