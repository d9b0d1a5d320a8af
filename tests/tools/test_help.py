"""``--help`` of every command answers at once: nothing heavy is imported for it."""

import subprocess
import sys
from pathlib import Path

from tools.bench import PARTS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted((ROOT / "tools").glob("[a-z]*.py"))

# Every command in turn in one process, which no import has touched before.
PROGRAM = """
import contextlib, io, runpy, sys
for words in eval(sys.argv[1]):
    sys.argv = [*words, "--help"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        if words[0].endswith(".py"):
            runpy.run_path(words[0], run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__")
    heavy = [name for name in ("torch", "numpy", "numba", "PIL", "matplotlib", "rich") if name in sys.modules]
    print(*words, "usage:" in out.getvalue(), heavy)
"""


def test_help_needs_no_heavy_import():
    commands = [[str(tool)] for tool in TOOLS] + [[str(ROOT / "tools/bench.py"), part] for part in PARTS]
    commands.append(["fastintl.train"])
    command = [sys.executable, "-c", PROGRAM, repr(commands)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [f"{' '.join(words)} True []" for words in commands], result.stderr
