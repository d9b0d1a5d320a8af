"""Some examples of each target, always the same ones; and that what is wrong is found."""

import subprocess
import sys

import pytest

from tests import fuzzing
from tests.fuzzing.running import fuzz, try_examples
from tests.helpers.documents import ROOT


@pytest.mark.parametrize("target", fuzzing.names())
def test_nothing_is_found(target):
    try_examples(target, seed=0, count=getattr(fuzzing.load(target), "IN_SUITE", 30))


FAULTY = {
    "assertion": "def check(example):\n    assert example < 1000",
    "two_lines": (
        "from tests.fuzzing import refusals\nfrom loaders.image_reading import BadImage\n"
        "def check(example):\n    with refusals():\n        raise BadImage('one\\ntwo')"
    ),
    "memory": "def check(example):\n    bytearray(1 << 33)",
    "hang": "def check(example):\n    while example >= 0:\n        pass",
    "crash": "import os\ndef check(example):\n    os.abort()",
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_fault_is_found_and_shown_by_a_program(tmp_path, monkeypatch, kind):
    head = "from hypothesis import strategies\nexamples = strategies.integers(0, 10**6)\n"
    (tmp_path / f"faulty_{kind}.py").write_text(head + FAULTY[kind] + "\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = fuzz(f"faulty_{kind}", 0, 10, tmp_path / "out", example_seconds=3)
    assert outcome.examples >= 1
    says = {
        "assertion": "AssertionError",
        "two_lines": "not one line",
        "memory": "MemoryError",
        "hang": "not done after 3 s",
        "crash": "status -6",
    }[kind]
    assert says in outcome.fault
    text = outcome.file.read_text()
    assert f"from faulty_{kind} import check" in text
    if kind == "assertion":
        assert "check(1000)" in text  # the smallest
    if kind in ("assertion", "two_lines", "crash"):  # the other two need the bounds
        assert subprocess.run([sys.executable, outcome.file], cwd=ROOT, capture_output=True).returncode


def test_the_command_runs_targets_in_turn(tmp_path):
    words = [sys.executable, "tests/fuzz.py", "--minutes", "0.05", "--targets", "beton", "--seed", "0"]
    done = subprocess.run([*words, "--out", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "beton " in done.stdout and "0 failures" in done.stdout
