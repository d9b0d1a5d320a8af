"""What the comparison writes."""

import json
import sys
from pathlib import Path

from tools.benchmark.results import read_result
from tools.fidelity import command
from tools.fidelity.checkouts import Checkouts


def test_a_part_is_written_beside_those_of_other_commands_and_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    words = ["tools/against_authors.py", "--intl", str(tmp_path / "INTL"), "--data", "data/cifar10"]
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *words])
    path, checkouts = tmp_path / "found.json", Checkouts(Path("INTL"), Path("CW-RGP"))
    for part in ("steps", "crops"):
        command._write(path, part, {"found": part}, checkouts)
    parts = json.loads(path.read_text())["parts"]
    assert read_result(path)["surroundings"] == parts["crops"]["surroundings"]
    assert {name: part["found"] for name, part in parts.items()} == {"steps": "steps", "crops": "crops"}
    shown = ["python", "tools/against_authors.py", "--intl", "INTL", "--data", "data/cifar10"]
    assert parts["steps"]["surroundings"]["command"] == shown
    assert str(tmp_path) not in path.read_text()
