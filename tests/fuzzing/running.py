"""Runs one target: in this process (``try_examples``), or in a child whose memory and time are bounded (``fuzz``)."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis

from tests import fuzzing
from tests.helpers.processes import kill

MEMORY = 1 << 30  # bytes above what a target's imports take
_ROUND = 100  # examples before the next seed: hypothesis's own search grows slow over thousands
_COUNT = re.compile(r"\A# example (\d+)")


@dataclass(frozen=True)
class Outcome:
    """What became of a target.

    Attributes:
        examples: how many were tried.
        seconds: how long that took.
        peak: bytes of memory at most, the imports' among them.
        fault: one line on what was found, "" if nothing was.
        file: the example that shows it, a program; None if nothing was found.
    """

    target: str
    examples: int
    seconds: float
    peak: int
    fault: str
    file: Path | None


def fuzz(target: str, seed: int, seconds: float, folder: Path, example_seconds: float = 60) -> Outcome:
    """Tries examples of a target in a child process, until the time is over or one fails.

    Args:
        seed: of the examples.
        seconds: time for all of them.
        folder: where a failing example is written, as a program that shows the failure again.
        example_seconds: an example that takes longer is taken for a hang.
    """
    files = Files(folder, target)
    for path in (files.trial, files.found, files.report):
        path.unlink(missing_ok=True)
    words = [target, "--seed", seed, "--seconds", seconds, "--folder", folder]
    begin = time.monotonic()
    with open(files.log, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzzing.running", *map(str, words)],
            stdout=log, stderr=subprocess.STDOUT, cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        try:
            fault = _watch(process, files, begin + 2 * seconds + example_seconds, example_seconds)
        finally:
            kill(process)
    if fault and files.trial.exists():
        files.trial.replace(files.found)
    report = json.loads(files.report.read_text()) if files.report.exists() else {}
    if files.found.exists() and not fault:
        fault = report.get("fault", "an example fails")
    examples = report.get("examples", _count(files.found))
    shown = files.found if files.found.exists() else files.log if fault else None
    return Outcome(target, examples, time.monotonic() - begin, report.get("peak", 0), fault, shown)


def _watch(process: subprocess.Popen, files: Files, end: float, example_seconds: float) -> str:
    """Waits for the child's end; what is wrong if it does not come to one of its own."""
    while process.poll() is None:
        time.sleep(0.2)
        now = time.monotonic()
        if files.found.exists():  # only made smaller from here on
            if now > end:
                return ""
        elif files.trial.exists() and time.time() - files.trial.stat().st_mtime > example_seconds:
            return f"an example is not done after {example_seconds:g} s"
        elif now > end + example_seconds:
            return "the target does not end"
    if process.returncode and not files.report.exists():
        return f"the process ended with status {process.returncode}"
    return ""


class Files:
    """What a child writes into ``folder``.

    Attributes:
        trial: the example under way.
        found: one that failed, as small as it was made.
        report: what became of all of them.
        log: what was printed.
    """

    def __init__(self, folder: Path, target: str) -> None:
        name = target.rpartition(".")[2]
        folder.mkdir(parents=True, exist_ok=True)
        self.trial, self.found = folder / f"{name}.trial.py", folder / f"{name}.found.py"
        self.report, self.log = folder / f"{name}.report.json", folder / f"{name}.log"


def _count(path: Path) -> int:
    found = _COUNT.match(path.read_text()) if path.exists() else None
    return int(found[1]) if found else 0


def program(target: str, number: int, example: Any, failure: str = "") -> str:
    """An example as a program that tries it again; ``failure`` stands in it as a remark."""
    remark = "".join(f"# {line}\n" for line in failure.splitlines())
    name = fuzzing.load(target).__name__
    return f"# example {number}\n{remark}from {name} import check\n\ncheck({example!r})\n"


def try_examples(
    target: str,
    seed: int,
    count: int,
    before: Callable[[Any], None] = lambda example: None,
    failed: Callable[[Any, BaseException], None] = lambda example, error: None,
) -> None:
    """Tries ``count`` examples; raises what the smallest failing one raises.

    Args:
        before: called with each example before it is tried.
        failed: called with each that fails and its error, smaller and smaller ones.
    """
    module = fuzzing.load(target)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, report_multiple_bugs=False, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(module.examples)
    def attempt(example: Any) -> None:
        before(example)
        try:
            module.check(example)
        except hypothesis.errors.HypothesisException:
            raise
        except BaseException as error:
            failed(example, error)
            raise

    attempt()


def main() -> None:
    """The child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    files, end = Files(given.folder, given.target), time.monotonic() + given.seconds
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    module = fuzzing.load(given.target)
    bound_memory(getattr(module, "MEMORY", MEMORY))
    number, fault = 0, ""

    class OutOfTime(BaseException):
        pass

    def before(example: Any) -> None:
        nonlocal number
        if time.monotonic() > end and not fault:
            raise OutOfTime
        number += 1
        files.trial.write_text(program(given.target, number, example))

    def failed(example: Any, error: BaseException) -> None:
        nonlocal fault
        fault = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        told = "".join(traceback.format_exception(error))
        text = program(given.target, number, example, told)
        files.found.write_text(text, errors="backslashreplace")

    seed = given.seed
    try:
        while not fault:
            try_examples(given.target, seed, _ROUND, before, failed)
            seed += 1
    except OutOfTime:
        pass
    except BaseException as error:
        fault = fault or f"{type(error).__name__}: {error}"
        traceback.print_exc()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    files.report.write_text(json.dumps({"examples": number, "fault": fault, "peak": peak}))
    files.trial.unlink(missing_ok=True)
    sys.stdout.flush()
    os._exit(0)  # threads of a target must not keep it


def bound_memory(above: int) -> None:
    """Sets the most address space this process may have to what it has now and ``above`` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + above
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
