"""The command ``fastintl``: every tool under one name, and nothing imported but the one that is asked for."""

import os
import subprocess
import sys

import pytest

from tests.helpers import warm_python
from tests.helpers.documents import ROOT
from tools.__main__ import COMMANDS, as_command


def fastintl(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "tools", *words], cwd=ROOT, capture_output=True, text=True)


def test_help_lists_every_command_and_imports_nothing_heavy():
    program = "import sys; sys.argv = ['fastintl', '--help']\nfrom tools.__main__ import main\ntry: main()\nfinally: "
    program += "print([name for name in ('torch', 'numpy', 'yaml', 'rich') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]" and all(f"\n  {name} " in out for name in COMMANDS)


def test_an_unknown_command_is_one_sentence():
    ended = fastintl("write_ffcv")
    assert ended.returncode == 2
    sentence = "there is no such command; did you mean fastintl write-ffcv?"
    assert ended.stderr == f"error: fastintl write_ffcv: {sentence}\n"


def test_a_command_takes_its_own_words():
    keys = fastintl("train", "train.epochs=3", "--rcfg", "ep100", "--print-config").stdout
    assert "name: ep100\n" in keys and "  epochs: 3\n" in keys


@pytest.mark.parametrize(
    "text, shown",
    [
        ("python tools/knn.py runs/a", "fastintl knn runs/a"),
        ("which tools/write_ffcv.py wrote", "which fastintl write-ffcv wrote"),
        ("python tools/show_crops.py", "fastintl crops"),
        ("python -m fastintl.train --rcfg ep100", "fastintl train --rcfg ep100"),
        ("torchrun --nproc-per-node 8 tools/linear.py …", "torchrun --nproc-per-node 8 --no-python fastintl linear …"),
        ("torchrun --nproc-per-node 8 -m fastintl.train", "torchrun --nproc-per-node 8 --no-python fastintl train"),
    ],
)
def test_examples_of_a_help_are_shown_as_commands(text, shown):
    assert as_command(text) == shown


def test_an_error_names_commands_too(tmp_path):
    ended = warm_python.run([sys.executable, "-m", "tools", "knn", "--train", tmp_path, "--val", tmp_path], cwd=ROOT)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.endswith("it is no folder of features, which fastintl features writes\n")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("fastintl neig", ["neighbours"]),
        ("fastintl knn --tra", ["--train"]),
        ("fastintl neighbours runs/a --map ", ["auto", "pca", "tsne", "umap"]),
        ("fastintl train --rc", ["--rcfg"]),
        ("fastintl bench load", ["loader"]),
    ],
)
def test_a_shell_completes_commands_and_options(line, found, tmp_path):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run([sys.executable, "-m", "tools"], cwd=ROOT, env={**os.environ, **variables}, capture_output=True)
    assert [word.strip() for word in answer.read_text().split("\n")] == found


def test_the_doctor_names_commands_as_they_are_typed(tmp_path):
    from tests.helpers.images import write_image

    for i in range(8):
        write_image(tmp_path / "class" / f"{i}.jpg", 40, 48, seed=i)
    here = "FFCV decodes .beton files: fastintl write-ffcv folder"
    command = [sys.executable, "-m", "tools", "doctor", "--data", str(tmp_path), "--batch-size", "4"]
    by_command = " ".join(warm_python.run(command, cwd=ROOT).stdout.split())
    tool = [sys.executable, "tools/doctor.py", "--data", str(tmp_path), "--batch-size", "4"]
    by_script = warm_python.run(tool, cwd=ROOT).stdout
    assert here in by_command and "python tools/write_ffcv.py folder" in " ".join(by_script.split())
