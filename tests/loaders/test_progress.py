"""Progress as lines without a terminal and as a bar on one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from loaders.progress import Progress

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import time
from loaders.progress import Progress
with Progress("file.beton", "images", 2000, done=500) as progress:
    for _ in range(15):
        time.sleep(0.02)
        progress.advance(100)
"""


def test_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(Progress, "PLAIN_SECONDS", 0.0)
    with Progress("file.beton", "images", 2000, done=500) as progress:
        progress.advance(750)
        rate = progress.rate
        progress.advance(750)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"file.beton: 1,250 of 2,000 images, [\d,]+/s, [\d.,]+ min left", lines[0])
    assert lines[1].startswith("file.beton: 2,000 of 2,000 images") and lines[1].endswith("0.0 min left")
    assert progress.done == 2000 and rate > 0


def test_quiet_when_quick(capsys):
    with Progress("file.beton", "images", 10) as progress:
        progress.advance(10)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", CODE], cwd=REPOSITORY, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # a closed terminal ends with an error
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "file.beton" in text and "2000/2000" in text and "/s" in text and "left" in text
