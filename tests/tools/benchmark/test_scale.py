"""tools/bench.py scale opens the same images under ever more names; how long that takes is no test's business."""

import json
import sys

import pytest

from tests.helpers import warm_python
from tests.helpers.training import ROOT
from tools.benchmark.scale import exponents


@pytest.mark.slow
def test_each_kind_is_opened_by_each_source(tmp_path):
    target = tmp_path / "scale.json"
    words = ["scale", "--images", "1000", "130", "--kinds", "tar", "beton", "--sources", "folder"]
    words += ["--place", tmp_path, "--json", target]
    run = warm_python.run([sys.executable, "tools/bench.py", *words], cwd=ROOT)
    assert run.returncode == 0, run.stderr
    result = json.loads(target.read_text())
    rows = {(row["images"], row["kind"], row["source"]): row for row in result["rows"]}
    assert set(rows) == {(n, kind, "folder") for n in (130, 1000) for kind in ("tar", "beton")}
    for row in rows.values():
        assert "error" not in row and row["open_seconds"] > 0 and row["batch_seconds"] > 0, row
    assert [row["kind"] for row in result["exponents"]] == ["tar", "beton"]
    assert "1,000 images" in run.stdout and not [p for p in tmp_path.iterdir() if p != target]


def test_an_exponent_is_the_slope_of_the_logarithms():
    costs = ("first_seconds", "open_seconds", "batch_seconds", "resume_seconds", "private_bytes")
    rows = []
    for n in (10**4, 10**5, 10**6):
        other = {"private_bytes": 5e6 * n**0.5, "names_seconds": 0.2, "names_bytes": 7}
        rows.append({"images": n, "kind": "tar", "source": "dali", **dict.fromkeys(costs, 3e-6 * n), **other})
    (found,) = exponents([*rows, {"images": 5, "kind": "tar", "source": "dali", "error": "none"}])
    assert found["open_seconds"] == pytest.approx(1) and found["private_bytes"] == pytest.approx(0.5)
    assert found["names_seconds"] == pytest.approx(0) and found["names_bytes"] == pytest.approx(0)
