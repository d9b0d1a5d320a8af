"""Contenders are timed in turn; one that fails is left out, says why, and cleans up."""

import os
import signal
import time

import pytest

from loaders import UserError
from loaders.recipe import CropSpec, MultiCrop
from tests.helpers.processes import descendants
from tools import bench
from tools.benchmark.child_processes import Pipeline, timed_in_processes
from tools.benchmark.contenders import Contender, ratio, time_in_turn, timed
from tools.benchmark.loader_pipelines import Workload


def test_each_does_a_round_in_turn_and_a_failure_ends_one_alone():
    done = []

    def rounds(name, fails_at):
        try:
            done.append(f"{name} starts")
            yield {}
            for number in range(1, 10):
                if number == fails_at:
                    raise ValueError("no\nroom")
                done.append(f"{name} {number}")
                yield {"seconds": float(number)}
        finally:
            done.append(f"{name} ends")

    a, b = Contender("a", lambda: rounds("a", None)), Contender("b", lambda: rounds("b", 2))
    c = Contender("c", lambda: timed(lambda: 1 / 0))
    time_in_turn([a, b, c], 3)
    assert done == ["a starts", "b starts", "a 1", "b 1", "a 2", "b ends", "a 3", "a ends"]
    assert a.values("seconds") == [1, 2, 3] and a.median("seconds") == 2 and a.error is None
    assert b.values("seconds") == [1] and b.error == "ValueError: no room"
    assert c.rounds == [] and c.median("seconds") is None and c.error.startswith("ZeroDivisionError")
    assert ratio(a, b, "seconds") == 1 and ratio(a, c, "seconds") is None
    with pytest.raises(ValueError):
        time_in_turn([Contender("b", lambda: rounds("b", 1))], 3, may_fail=False)


def states(process: int) -> dict[int, str]:
    """The states of the processes below one, by id: T is stopped."""
    found = {}
    for pid in descendants(process):
        with open(f"/proc/{pid}/stat") as file:
            found[pid] = file.read().rpartition(")")[2].split()[0]
    return found


def await_stopped() -> list[int]:
    """The stopped processes below this one; a process stops when it next has a core."""
    stopped, end = [], time.monotonic() + 30
    while not stopped and time.monotonic() < end:
        stopped = [pid for pid, state in states(os.getpid()).items() if state == "T"]
    return stopped


def test_a_pipelines_process_is_stopped_between_its_rounds(image_beton):
    work = Workload(image_beton, image_beton, MultiCrop((CropSpec(16),)), batch_size=8, threads=1)
    rounds = timed_in_processes(Pipeline("plain_decode", 1, works_ahead=False), work, 0.05)
    assert next(rounds) == {}
    stopped = await_stopped()
    measured = next(rounds)
    assert min(measured.values()) > 0 and set(measured) == {"images_per_second", "cpu_seconds_per_image", "peak_bytes"}
    rounds.close()
    left = states(os.getpid())
    assert any(pid not in left for pid in stopped)


def test_no_stopped_process_is_left_where_the_measuring_is_terminated(image_beton, monkeypatch):
    work = Workload(image_beton, image_beton, MultiCrop((CropSpec(16),)), batch_size=8, threads=1)
    stopped = []

    def run(arguments) -> None:
        rounds = timed_in_processes(Pipeline("plain_decode", 1, works_ahead=False), work, 0.05)
        try:
            next(rounds)
            stopped.extend(await_stopped())
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            rounds.close()

    monkeypatch.setattr("tools.benchmark.loader.run", run)
    kept = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="143"):
            bench.main(["loader", "--data", str(image_beton)])
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert stopped and not states(os.getpid()).keys() & set(stopped)


def test_why_a_process_fails_is_told(tmp_path, image_beton):
    work = Workload(tmp_path / "none", image_beton, MultiCrop((CropSpec(16),)), batch_size=8, threads=1)
    with pytest.raises(UserError, match="none does not exist"):
        next(timed_in_processes(Pipeline("decode_only", 1, ("folder",)), work, 0.05))
