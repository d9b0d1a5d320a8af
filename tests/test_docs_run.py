"""The commands of README and docs run, page by page, made small by ``small_commands.py``.

They run within this process, which has torch already, over the miniatures of ``named_data.py``; what ``torchrun``
starts on 8 GPUs runs on two ranks: a training by torchrun itself, tools as it would start them. Each kind of tool and
recipe runs once; those of ``BY_HAND`` are left to ``tests/follow_readme.py``, which types every command as it stands.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import documents, named_data, small_commands, warm_python

PAGES = [page for page in documents.PAGES if page.name != "CONTRIBUTING.md"]
BY_HAND = [
    (r"make demo|fastintl demo", "a minute"),
    (r"fastintl train", "as python -m fastintl.train; tests/test_wheel.py runs one"),
    (r"tools/bench\.py", "minutes; its parts run in tests/tools/test_bench.py and tests/fastintl/test_distributed.py"),
    (r"tools/detect\.py .*(--data coco|runs/ep200)", "the miniature of docs/detection.md is COCO's"),
    (r"tools/export\.py .*\.pkl", "of a ResNet-50 only"),
    (r"fastintl\.train .*=/data/imagenet", "as docs/migrating.md"),
    (r"tools/(linear|finetune)\.py .*data/ImageNet", "as the README"),
]
# Beside what small_commands.py adds: the demo's network in place of ResNets.
QUICKER = [
    (r"fastintl\.train .*/(ep100|in100|cifar|cw_rgp)", "model.arch=resnet8 model.stem=small"),
    (r"fastintl\.train .*/ep100", "crops.sizes=[24,24,20,20,16,16] eval.resize=24 eval.size=24"),
]
# What the reader is to see.
SAYS = [
    (r"fastintl\.train --rcfg", "results in runs/"),
    (r"tools/linear\.py runs/small", "linear, quick"),
    (r"tools/knn\.py runs/mine .*--k 1,5,20", "20-nn"),
    (r"tools/neighbours\.py", "neighbours.html, and in runs/mine/report.html"),
    (r"tools/features\.py", "96 features of 128 channels"),
    (r"tools/finetune\.py", "fine-tuning"),
    (r"tools/detect\.py", "AP50"),
    (r"tools/doctor\.py --data", "images/s"),
]
# What those of the README leave.
LEFT = ("data/folder_train.beton", "data/folder_val.beton", "runs/mine/report.html", "runs/small/report.html")
LEFT += ("mine.safetensors",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A clone with the data that the pages name."""
    root = tmp_path_factory.mktemp("place") / "clone"
    named_data.link_code(root)
    named_data.lay_out(root)
    return root


def test_every_command_has_a_line_in_a_table():
    assert not [str(command) for command in documents.commands() if not small_commands.known(command.words)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page, place, monkeypatch, capfd):
    """In turn, after those of the README: they take what earlier ones left."""
    monkeypatch.chdir(place)
    for command in documents.commands():
        if command.page != page or small_commands.matching([*BY_HAND, *small_commands.LEFT_OUT], command.words):
            continue
        named_data.stand_in(place, command.words)
        quicker = " ".join(small_commands.matching(QUICKER, command.words)).split()
        status = run([*named_data.placed(command.words), *small_commands.added(command.words), *quicker])
        out, err = capfd.readouterr()
        assert status == 0, f"{command}: status {status}\n{out}\n{err}"
        assert all(said in out for said in small_commands.matching(SAYS, command.words)), f"{command}\n{out}"
    assert all((place / name).is_file() for name in LEFT)


def printed(ended: subprocess.CompletedProcess) -> int:
    print(ended.stdout, end="")
    print(ended.stderr, end="", file=sys.stderr)
    return ended.returncode


def run(words: list[str]) -> int:
    """The status that a command ends with."""
    if words[0] == "torchrun":
        assert words[1] == "--nproc-per-node", words
        program = words[3:]
        if program[0] == "-m":
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
            return printed(warm_python.run([*torchrun, *program]))
        return printed(warm_python.run_on_ranks([sys.executable, *program], 2, env=dict(os.environ), cwd=Path.cwd()))
    if words[0] == "fastintl":
        return printed(warm_python.run([sys.executable, "-m", "tools", *words[1:]]))
    assert words[0] == "python", words
    start, words = (runpy.run_module, words[2:]) if words[1] == "-m" else (runpy.run_path, words[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        try:
            start(words[0], run_name="__main__")
        except SystemExit as end:
            return end.code or 0
    return 0
