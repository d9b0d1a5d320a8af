"""The table of what recipes cost: that of docs/scaling.md is what the tool prints, and follows from the counts."""

import json
import re
import sys

import pytest

from tests.helpers import warm_python
from tests.helpers.training import ROOT
from tools.benchmark.costs import costs, table
from tools.benchmark.estimate import HostRate

CORE = HostRate(1000.0, "loader.json")
PARTS = [{"bytes_moved": 3.35e10, "flops": 1e12, "float32": True}]  # 10 ms of an H100's memory


def counted(recipe: str, **changes: object) -> dict:
    from fastintl import config

    total = {"kept_bytes": 33e9}
    text = config.to_yaml(config.load(recipe, []))
    result = {
        "benchmark": "count",
        "surroundings": {},
        "ranks": 1,
        "config": text,
        "parts": PARTS,
        "total": total,
        "weight_bytes": 2e9,
    }
    return result | changes


def test_the_table_of_the_docs_is_what_the_tool_prints():
    page = (ROOT / "docs/scaling.md").read_text()
    (command,) = re.findall(r"python tools/bench\.py costs (?:[^\n`\\]|\\\n)*", page)
    words = command.replace("\\\n", " ").split()[1:]
    run = warm_python.run([sys.executable, *words], cwd=ROOT)
    assert run.returncode == 0, run.stderr
    rows = run.stdout.splitlines()
    assert len(rows) > 20 and "\n".join(rows) in page


def test_hours_memory_and_cores_follow_from_the_counts(tmp_path):
    (one,) = costs(["ep100"], {tmp_path / "count.json": counted("ep100")}, CORE)
    steps = 1_281_167 // 256 * 100
    assert one.gpu_hours["h100"] == pytest.approx(steps * max(0.01, 1 / 66.9) / 3600)
    assert one.gpu_hours["v100"] is None and one.cores["v100"] is None  # 35 GB do not fit its 34.4
    assert one.cores["h100"] == 18  # 256 images in 15 ms, at 1000 images/s a core
    line = list(table([one]))[-1]
    assert line == f"| ep100 | 1 | – | {one.gpu_hours['a100']:.1f} | {one.gpu_hours['h100']:.1f} | 35.0 | – | 5 | 18 |"


def test_pixels_in_memory_need_no_core_and_what_was_not_counted_is_refused(tmp_path):
    path = tmp_path / "count.json"
    path.write_text(json.dumps(counted("cifar10", total={"kept_bytes": 1e9})))
    words = [sys.executable, "tools/bench.py", "costs"]
    run = warm_python.run([*words, "cifar10", "cifar100", "--counts", path], cwd=ROOT)  # one step serves both
    assert run.returncode == 0 and all(line.endswith("| 3.0 | – | – | – |") for line in run.stdout.splitlines()[2:])
    run = warm_python.run([*words, "cifar10", "--counts", ROOT / "docs/benchmarks/loader_cpu.json"], cwd=ROOT)
    assert run.returncode == 2 and "loader_cpu.json holds no counts: give what" in run.stderr
    run = warm_python.run([*words, "ep100", "--counts", path], cwd=ROOT)
    assert (
        run.returncode == 2 and "no step of ep100 was counted: python tools/bench.py count --rcfg ep100" in run.stderr
    )
