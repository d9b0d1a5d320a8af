"""Anyone's first minutes on a GPU, at most eight: the tests that need one, the crops beside the CPU's, a recipe's
training uncompiled and compiled with the loader and its memory, and what this machine's cores feed.

    python tools/bench.py gpu --out runs/gpu_check

Each part is a process with a limit of time of its own, so that one that fails or hangs leaves the others. Their logs,
``gpu_check.json`` and the page ``gpu_check.md`` lie in the folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from loaders.errors import UserError
from loaders.files import write_json

from .options import add_overrides

_TOOLS = Path(__file__).resolve().parents[1]
_TESTS = _TOOLS.parent / "tests"  # of a clone
_TEST_PROCESSES = 8
_PASSED, _FAILED, _LATE = "passed", "FAILED", "NOT DONE IN TIME"


@dataclass(frozen=True)
class Part:
    """A command and how long it may take.

    Attributes:
        result: the JSON that it writes; None where its log is all.
    """

    name: str
    command: list[str]
    seconds: float
    result: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a part ended: ``verdict``, the seconds it took, the last line of its log, and its JSON."""

    name: str
    verdict: str
    seconds: float
    last_line: str
    result: Mapping[str, Any] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rcfg", metavar="RECIPE", default="cifar10", help="(default: cifar10)")
    parser.add_argument("--data", type=Path, help="its images (default: the demo's, which are drawn)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="folder (default: runs/gpu_check)")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from loaders.environment import describe_environment, this_machine

    if not this_machine().gpus:
        raise UserError("torch sees no GPU here (nvidia-smi lists those that the driver sees): nothing can be checked")
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for part in parts(arguments.rcfg, arguments.data, arguments.out, arguments.overrides):
        print(f"{part.name}: at most {part.seconds:.0f} s", flush=True)
        outcomes.append(outcome := carry_out(part, arguments.out / f"{part.name}.log"))
        print(f"{part.name}: {outcome.verdict} after {outcome.seconds:.0f} s", flush=True)
    environment = describe_environment()
    rows = [asdict(outcome) for outcome in outcomes]
    write_json(arguments.out / "gpu_check.json", {"benchmark": "gpu", "surroundings": environment, "parts": rows})
    page = "\n".join(lines(outcomes, environment)) + "\n"
    (arguments.out / "gpu_check.md").write_text(page)
    print(page, end="")
    if any(outcome.verdict != _PASSED for outcome in outcomes):
        raise UserError(f"not all is well: the logs are in {arguments.out}")


def parts(rcfg: str, data: Path | None, out: Path, overrides: Sequence[str]) -> list[Part]:
    """What is done, in order of worth."""
    bench, on_images = [sys.executable, str(_TOOLS / "bench.py")], data or out / "demo/demo_train.beton"
    shared = ["--rcfg", rcfg, *overrides]

    def training(name: str, compiled: str, seconds: float) -> Part:
        short = ["--rounds", "2", "--steps", "20", "--data", str(on_images), "data.val=null"]
        words = [f"train.compile={compiled}", "--json", str(out / f"{name}.json")]
        return Part(name, [*bench, "train", *shared, *short, *words], seconds, out / f"{name}.json")

    tests = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", str(_TESTS)]
    if importlib.util.find_spec("xdist"):
        tests += ["-n", str(min(_TEST_PROCESSES, len(os.sched_getaffinity(0))))]
    crops = [*bench, "crops", *shared, "--json", str(out / "crops.json")]
    doctor = [sys.executable, str(_TOOLS / "doctor.py"), "--rcfg", rcfg, "--data", str(on_images)]
    drawn = [sys.executable, str(_TOOLS / "write_ffcv.py"), "demo", "--out", str(out / "demo")]
    return [
        *([Part("tests", [sys.executable, *tests], 150)] if _TESTS.is_dir() else []),
        Part("crops", crops, 45, out / "crops.json"),
        *([Part("images", drawn, 30)] if data is None else []),
        training("uncompiled", "off", 60),
        training("compiled", "on", 150),
        Part("doctor", [*doctor, "--json", str(out / "doctor.json")], 40, out / "doctor.json"),
    ]


def carry_out(part: Part, log: Path) -> Outcome:
    """Runs it, with all that it prints in ``log``, and stops it when its time is up."""
    start = time.perf_counter()
    if part.result is not None:
        part.result.unlink(missing_ok=True)  # of an earlier check
    with log.open("wb") as output:
        try:
            done = subprocess.run(part.command, stdout=output, stderr=subprocess.STDOUT, timeout=part.seconds)
            verdict = _PASSED if done.returncode == 0 else _FAILED
        except subprocess.TimeoutExpired:
            verdict = _LATE
    seconds = time.perf_counter() - start
    result = json.loads(part.result.read_text()) if part.result is not None and part.result.is_file() else None
    if any(not row["agrees"] for row in (result or {}).get("engines", ())):
        verdict = _FAILED
    said = log.read_text(errors="replace").strip().splitlines()
    return Outcome(part.name, verdict, seconds, said[-1].strip() if said else "", result)


def lines(outcomes: Sequence[Outcome], environment: Mapping[str, Any]) -> Iterator[str]:
    """The page, as Markdown."""
    found = {outcome.name: outcome.result for outcome in outcomes if outcome.result}
    packages = environment["packages"]
    yield f"# {environment['gpu']}, torch {packages['torch']}"
    yield "\n| part | | seconds | its last line |\n|---|---|---|---|"
    for one in outcomes:
        said = one.last_line.replace("|", "/")
        yield f"| {one.name} | {one.verdict} | {one.seconds:.0f} | {said[:100]} |"
    if "crops" in found:
        yield "\n| crops of | mean difference from the CPU's | over two levels | ms a batch | memory |"
        yield "|---|---|---|---|---|"
        for row in found["crops"]["engines"]:
            memory = f"{(row['peak_bytes'] or 0) / 1e9:.2f} GB"
            difference = f"{row['mean_levels']:.3f} levels | {row['far_share']:.2%}"
            yield f"| {row['engine']} | {difference} | {row['milliseconds']:.1f} | {memory} |"
    trainings = [name for name in ("uncompiled", "compiled") if name in found]
    if trainings:
        yield "\n| training | images/s | without the loader | waits for images | memory | first step |"
        yield "|---|---|---|---|---|---|"
        for name in trainings:
            yield _training_row(name, found[name])


def _training_row(name: str, result: Mapping[str, Any]) -> str:
    fed, alone = (median(result[key]) for key in ("images_per_second", "synthetic_images_per_second"))
    memory, waits = f"{(result['peak_bytes'] or 0) / 1e9:.2f} GB", f"{median(result['data_wait']):.1%}"
    rates = f"{fed:,.0f} | {alone:,.0f} | {waits} | {memory} | {result['first_step_seconds']:.1f} s"
    return f"| {name}, {result['source']} | {rates} |"
