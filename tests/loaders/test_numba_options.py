"""Machine code that is kept between processes must not outlive what it was made of."""

import subprocess
import sys

import pytest

_INNER = """
from loaders.numba_options import compiled

FACTOR = {factor}


@compiled
def inner(x):
    return {inner}
"""
_OUTER = """
from inner import FACTOR, inner

from loaders.numba_options import compiled


@compiled
def outer(x):
    return _own(x) + inner(x)


@compiled
def _own(x):
    return FACTOR * x


answer = outer(3)
loaded = sum(outer.stats.cache_hits.values())
"""


@pytest.mark.parametrize(
    ("changed", "answer"), [({}, 9), ({"inner": "2 * x"}, 12), ({"factor": 5}, 18)], ids=["nothing", "loop", "number"]
)
def test_kept_code_holds_what_other_modules_say_now(tmp_path, changed, answer):
    before = {"factor": 2, "inner": "1 * x"}
    assert _run(tmp_path, before) == (9, 0)
    assert _run(tmp_path, before | changed) == (answer, 0 if changed else 1)


def _run(folder, texts: dict) -> tuple[int, int]:
    """What a new process computes, and how many functions it took from what was kept."""
    (folder / "inner.py").write_text(_INNER.format(**texts))
    if not (folder / "outer.py").exists():
        (folder / "outer.py").write_text(_OUTER)
    code = "import sys; sys.path.append(sys.argv[1]); import outer; print(outer.answer, outer.loaded)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    return tuple(map(int, done.stdout.split()))
