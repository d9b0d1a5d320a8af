"""A lock keeps other processes away, names its holder, and outlives no process."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loaders.lock import Held, Lock

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from loaders.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_another_process_holds_it_until_it_is_killed(tmp_path):
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        for patience in (0, 0.3):
            with pytest.raises(Held, match=f"^process {process.pid} on {os.uname().nodename}$"):
                Lock(path, patience)
    finally:
        process.kill()
        process.communicate()
    lock = Lock(path)
    assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    lock.close()
    lock.close()
    Lock(path).close()


def test_waiting_ends_when_it_is_given_back(tmp_path):
    path = tmp_path / "lock"
    first = Lock(path)
    code = f"from pathlib import Path; from loaders.lock import Lock; Lock(Path({str(path)!r}), 60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    first.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_does_without(tmp_path, monkeypatch, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.close()
    second.close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Lock(tmp_path / "file" / "lock")
