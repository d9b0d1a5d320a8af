"""tools/report.py draws pages of one and of several runs, and says what it cannot read."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import training

ROOT = Path(__file__).resolve().parents[2]


def report(*words: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "report.py", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that has only begun, of which one line of metrics is broken."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    words = [word for word in training.command(tmp_path, None, name="a") if "=" in word]
    config = subprocess.run(
        [sys.executable, "-m", "fastintl.train", "--print-config", *words], cwd=ROOT, capture_output=True, text=True
    )
    (folder / "config.yaml").write_text(config.stdout)
    rows = ['{"step": 2, "epoch": 1, "loss": 2.5}', "broken", '{"step": 4, "epoch": 2, "loss": 2}']
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_one_run_and_several(run, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere" / "a")
    one = report("runs/a", cwd=tmp_path)
    assert one.returncode == 0 and one.stdout == "runs/a/report.html\n"
    assert "metrics.jsonl: left out, since it cannot be read: line 2" in one.stderr
    several = report("runs/a", "elsewhere/a", cwd=tmp_path)
    assert several.stdout == "comparison.html\n"
    page = (tmp_path / "comparison.html").read_text()
    assert "runs/a" in page and "elsewhere/a" in page  # the names alone are the same
    elsewhere = report("runs/a", "--out", "new/page.html", cwd=tmp_path)
    assert elsewhere.stdout == "new/page.html\n" and (tmp_path / "new" / "page.html").exists()


def test_what_a_user_gets_wrong_is_one_sentence(run, tmp_path):
    for words in (["runs"], ["nowhere"], ["runs/a", "--out", "runs/a/config.yaml/page.html"]):
        wrong = report(*words, cwd=tmp_path)
        assert wrong.returncode == 2 and wrong.stderr.count("error: ") == 1 and "Traceback" not in wrong.stderr
