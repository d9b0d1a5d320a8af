"""Runs Python commands in forks of a process that has imported torch and the project already.

A small training is a second of work behind five or more seconds of imports. Each is still a process of its own, with
its own arguments, environment, folder and output; what it imports is there before it begins, and is not taken apart
when it has ended, which takes a fork half a second. What must be a process from the very first instruction (imports
that are looked at, a kill among them) or to the very last one is started with ``subprocess``.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.helpers.ddp import free_port

ROOT = Path(__file__).resolve().parents[2]
# Read when Python starts or a library is first imported: the forks have what the server has.
_READ_AT_IMPORT = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "KMP_", "NUMBA_", "TRITON_", "TORCH", "CUDA_", "MPL")
_FOR_ALL = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
_OF_NO_CONCERN = ("PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
_ONE_REQUEST = threading.Lock()  # at a time is written to the server


@dataclass
class Process:
    """A command that runs in a fork, as far as a ``subprocess.Popen`` is needed of it: its parent is not this process
    but one that tells the status through a pipe when it has ended."""

    args: list[str]
    pid: int
    _news: TextIO
    returncode: int | None = None

    def poll(self) -> int | None:
        """The status that it ended with, a signal's negative; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The status, once it has ended; raises ``subprocess.TimeoutExpired`` if it has not by then."""
        if self.returncode is None:
            if not select.select([self._news], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            with self._news:
                self.returncode = int(self._news.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: list, *, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess:
    """As ``subprocess.run(command, capture_output=True, text=True, ...)`` for a command that starts with
    ``sys.executable``, and a file or ``-m`` and a module; with one thread, where ``env`` does not say how many."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(words, out, err, env=env, cwd=cwd)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as late:
            process.kill()
            process.wait()
            late.output, late.stderr = _text(out), _text(err)
            raise
        return subprocess.CompletedProcess(words, status, _text(out), _text(err))


def start(
    command: list, stdout: TextIO, stderr: TextIO, *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Process | subprocess.Popen:
    """Starts such a command, whose output goes to the ends of two open files."""
    words = [str(word) for word in command]
    env = {**_FOR_ALL, **(os.environ if env is None else env)}
    if words[0] != sys.executable or words[1] == "-c" or _at_import(env) != _at_import(os.environ | _FOR_ALL):
        return subprocess.Popen(words, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
    read, write = os.pipe()
    place = f"/proc/{os.getpid()}/fd"
    files = [f"{place}/{number}" for number in (stdout.fileno(), stderr.fileno(), write)]
    request = {"words": words[1:], "env": env, "cwd": str(cwd or Path.cwd()), "files": files}
    with _ONE_REQUEST:
        server = _server()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
    news = os.fdopen(read)
    pid = int(news.readline())  # which it writes after it has opened the files
    os.close(write)
    return Process(words, pid, news)


def run_on_ranks(
    command: list, ranks: int, *, env: dict[str, str], cwd: Path, timeout: float = 300
) -> subprocess.CompletedProcess:
    """The command on several ranks at once, with the environment that torchrun gives them; their outputs one behind
    the other. A rank that fails is waited for by the others until the time is over."""
    world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def one(rank: int) -> subprocess.CompletedProcess:
        place = {**env, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run(command, env=place, cwd=cwd, timeout=timeout)

    with ThreadPoolExecutor(ranks) as pool:
        done = list(pool.map(one, range(ranks)))
    outputs = ("".join(getattr(rank, name) for rank in done) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(command, max(abs(rank.returncode) for rank in done), *outputs)


def _at_import(env: dict[str, str]) -> dict[str, str]:
    return {key: env[key] for key in env if key.startswith(_READ_AT_IMPORT) and key not in _OF_NO_CONCERN}


def _text(file: TextIO) -> str:
    file.seek(0)
    return file.read()


@functools.cache
def _server() -> subprocess.Popen:
    """One for each process of the tests; it ends with that, when nothing more comes through its pipe."""
    command = [sys.executable, "-m", "tests.helpers.warm_python"]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | _FOR_ALL, stdin=subprocess.PIPE, text=True)


def _import_all() -> None:
    import rich.progress
    import rich.table  # noqa: F401
    from numba.core.registry import cpu_target

    import fastintl.detection
    import fastintl.training.pretraining  # noqa: F401

    cpu_target.target_context.refresh()  # half a second, which the first compiled loop would take
    import loaders.frozen  # noqa: F401


def _serve() -> dict:
    """Forks for each request a process that forks the command and tells its number and status. Returns in the command
    alone."""
    requests = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in requests:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that have told
                pass
        if os.fork() == 0:
            requests.close()
            return _forked(json.loads(line))
    os._exit(0)


def _forked(request: dict) -> dict:
    """Opens the request's files and forks the command, in which alone it returns."""
    *outputs, news = request["files"]
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    news = os.open(news, os.O_WRONLY)
    pid = os.fork()
    if pid == 0:
        os.close(news)
        return request
    os.write(news, f"{pid}\n".encode())
    os.write(news, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    os._exit(0)


def _become(request: dict) -> None:
    """Takes the folder and environment of a request, and runs it as ``python`` runs its words."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    words = request["words"]
    sys.orig_argv = [sys.executable, *words]
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], request["cwd"]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def _end(status: int) -> None:
    """Does what Python does at the end of a program, up to the taking apart of its modules."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _import_all()
    request = _serve()
    try:
        _become(request)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        _end(end.code or 0)
    _end(0)
