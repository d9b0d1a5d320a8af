"""What a user named is shown as it is named, and who stops reading the output ends a command quietly."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastintl.evaluate.results import print_rows
from loaders.errors import UserError, exit_on_user_error, require_writable
from loaders.terminal import open_console
from tests.helpers.training import ROOT

NAMES = ["sweep[lr=0.1]", "[bold]x[/bold]", "[/]", ":cat:", "<script>alert(1)</script>", "100%", "[link=a]b"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name, capsys):
    open_console(width=200).print(f"results in runs/{name}")
    print_rows(("task", name), [(name, "1")], bold=(name, "1"))
    screen = capsys.readouterr().out
    assert f"results in runs/{name}" in screen and screen.count(name) == 3


# More than a pipe holds; and what argparse prints.
LONG = "from loaders.errors import exit_on_user_error; exit_on_user_error(lambda: print('x\\n' * 10**6))()"
COMMANDS = {
    "long": [sys.executable, "-c", LONG],
    "short": [sys.executable, "-c", LONG.replace("10**6", "1")],
    "help": [sys.executable, "-m", "fastintl.train", "--help"],
    "config": [sys.executable, "-m", "fastintl.train", "--print-config"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_who_leaves_ends_a_command_without_a_traceback(command):
    process = subprocess.Popen(COMMANDS[command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    # argparse itself passes over a reader who has left, if it is the one to notice
    assert process.stderr.read() == b"" and process.wait() in ((0, 141) if command == "help" else (141,))


def test_an_error_is_one_line_whatever_the_files_are_called(capsys):
    def fail():
        raise UserError("there is no a\nb.jpg")

    with pytest.raises(SystemExit):
        exit_on_user_error(fail)()
    assert capsys.readouterr().err == "error: there is no a b.jpg\n"


CUDA = (
    "CUDA out of memory. Tried to allocate 9.50 GiB. GPU 0 has a total capacity of 14.57 GiB of which 2.10 GiB is "
    "free. Including non-PyTorch memory, this process has 12.4 GiB memory in use. Of the allocated memory 11 GiB is "
    "allocated by PyTorch.\nSee documentation for Memory Management"
)


def raise_cuda():
    raise torch.OutOfMemoryError(CUDA)


@pytest.mark.parametrize(
    "fill, reason",
    [
        (raise_cuda, CUDA[: CUDA.index(". Including")]),
        (lambda: torch.empty(10**15), "tried to allocate 4000000000000000 bytes"),
        (lambda: np.empty(10**16, np.uint8), "Unable to allocate 8.88 PiB"),
        (lambda: bytearray(10**16), "there is not enough memory: lower"),
    ],
    ids=["gpu", "torch", "numpy", "python"],
)
def test_memory_that_is_used_up_is_one_sentence(fill, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(fill)()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: there is not enough memory") and said.count("\n") == 1
    assert reason in said and "lower the batch size" in said and "non-PyTorch" not in said


@pytest.mark.parametrize("place", [None, "runs/x.pt"])
def test_a_full_disk_is_one_sentence_wherever_it_is_met(place, capsys):
    def fail():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([place] if place else []))

    with pytest.raises(SystemExit):
        exit_on_user_error(fail)()
    said = f"error: {place or 'a file'} cannot be written: No space left on device; make room there and start the same"
    assert capsys.readouterr().err == f"{said} command again\n"


def test_an_error_that_is_no_users_keeps_its_traceback():
    def fail():
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        exit_on_user_error(fail)()


def test_a_place_for_results_is_tried_and_left_as_it_was(tmp_path):
    (tmp_path / "there.json").write_text("kept")
    require_writable(tmp_path / "new" / "out.json", tmp_path / "there.json", None)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "there.json"]
    assert (tmp_path / "there.json").read_text() == "kept"
    for wrong in (tmp_path, tmp_path / "there.json" / "out.json"):
        with pytest.raises(UserError, match="cannot be written"):
            require_writable(wrong)
