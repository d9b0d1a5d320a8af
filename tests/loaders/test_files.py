"""Files are replaced whole, or stay as they were."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loaders.errors import UserError
from loaders.files import file_digest, remove_temporaries, replacing, write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from loaders.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_error_or_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]
    assert subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT).returncode == -9
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["x"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, [1])
    reader.join()
    assert read == ["[\n  1\n]\n"] and pipe.is_fifo()


def test_what_cannot_be_written_or_read_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/x.json cannot be written: File exists"):
        write_json(tmp_path / "file" / "x.json", {})
    with pytest.raises(UserError, match="none cannot be read: No such file"):
        file_digest(tmp_path / "none", "md5")
    (tmp_path / "file").write_bytes(b"content")
    assert file_digest(tmp_path / "file", "sha256") == hashlib.sha256(b"content").hexdigest()
