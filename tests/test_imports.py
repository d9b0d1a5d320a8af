"""Which part of the project imports from which, as pyproject.toml states it for import-linter."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.training import ROOT


def test_rooms_import_from_below_and_never_in_circles():
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, verbose=True))"
    result = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "3 kept, 0 broken" in result.stdout, result.stdout + result.stderr


def test_the_ground_floor_has_few_doors():
    assert len([path for path in (ROOT / "fastintl").iterdir() if path.name != "__pycache__"]) <= 15
