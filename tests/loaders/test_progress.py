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


def on_a_terminal(code: str, columns: int) -> str:
    """What a program shows on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # a closed terminal ends with an error
    os.close(ours)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_bar_on_a_terminal():
    text = on_a_terminal(CODE, columns=100)
    assert "file.beton" in text and "2000/2000" in text and "/s" in text and "left" in text


def test_a_long_text_takes_neither_total_nor_time_from_a_narrow_terminal():
    code = CODE.split("with")[0].replace("import Progress", "import ProgressDisplay") + (
        "bar = ProgressDisplay(500400)\n"
        "for step in range(3):\n"
        "    time.sleep(0.02)\n"
        "    bar.show(500398 + step, 'epoch 12  ' * 12, '')\n"
        "bar.close()\n"
    )
    text = on_a_terminal(code, columns=80)
    assert re.search(r"500400/500400 \S+ left epoch 12", text) and text.rstrip().endswith("…")
