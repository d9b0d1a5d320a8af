"""tools/report.py draws pages of one and of several runs, and says what it cannot read."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from fastintl import config as configuration
from tests.helpers import training, warm_python

TOOL = training.ROOT / "tools" / "report.py"


@pytest.fixture
def main(monkeypatch, tmp_path):
    """The tool's ``main``, called in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("report_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *words: module.main(list(words))


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that has only begun, of which one line of metrics is broken."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(configuration.to_yaml(configuration.load(None, ["name=a"])))
    rows = ['{"step": 2, "epoch": 1, "loss": 2.5}', "broken", '{"step": 4, "epoch": 2, "loss": 2}']
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_one_run_as_a_user_calls_it(run, tmp_path):
    one = warm_python.run([sys.executable, TOOL, "runs/a"], cwd=tmp_path)
    assert one.returncode == 0 and one.stdout == "runs/a/report.html\n"
    assert "metrics.jsonl: left out, since it cannot be read: line 2" in one.stderr
    assert "<h1>a</h1>" in (run / "report.html").read_text()


def test_several_runs_and_another_file(run, main, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "elsewhere" / "a")
    main("runs/a", "elsewhere/a")
    page = (tmp_path / "comparison.html").read_text()
    assert ">runs/a<" in page and ">elsewhere/a<" in page  # the names alone are the same
    main("runs/a", "--out", "new/page.html")
    assert capsys.readouterr().out == "comparison.html\nnew/page.html\n"
    assert (tmp_path / "new" / "page.html").exists()


@pytest.mark.parametrize("words", [["runs"], ["nowhere"], ["runs/a", "--out", "runs/a/config.yaml/page.html"]])
def test_what_a_user_gets_wrong_is_one_sentence(run, main, capsys, words):
    with pytest.raises(SystemExit, match="2"):
        main(*words)
    assert capsys.readouterr().err.count("error: ") == 1
