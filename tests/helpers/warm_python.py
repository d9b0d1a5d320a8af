"""Runs Python commands in forks of a process that has imported torch and the project already.

A small training is a second of work behind five or more seconds of imports. Each is still a process of its own, with
its own arguments, environment, folder and output, and ends as Python ends; only what it imports is there before it
begins. What must be a process from the very first instruction (imports that are looked at, a kill at a random moment)
is started with ``subprocess``.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.ddp import free_port

ROOT = Path(__file__).resolve().parents[2]
# Read when Python starts or a library is first imported: the forks have what the server has.
_READ_AT_IMPORT = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "KMP_", "NUMBA_", "TRITON_", "TORCH", "CUDA_", "MPL")
_FOR_ALL = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
_OF_NO_CONCERN = ("PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR")


def run(
    command: list, *, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 300, server: int = 0
) -> subprocess.CompletedProcess:
    """As ``subprocess.run(command, capture_output=True, text=True, ...)`` for a command that starts with
    ``sys.executable``, and a file or ``-m`` and a module; with one thread, where ``env`` does not say how many.

    Args:
        server: which of this process's servers forks it; each runs one command at a time.
    """
    words = [str(word) for word in command]
    env = {**_FOR_ALL, **(os.environ if env is None else env)}
    if words[0] != sys.executable or words[1] == "-c" or _at_import(env) != _at_import(os.environ | _FOR_ALL):
        return subprocess.run(words, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True)
    server = _server(server)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        files = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        request = {"words": words[1:], "env": env, "cwd": str(cwd or Path.cwd()), "files": files}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        pid = json.loads(server.stdout.readline())
        ended, _, _ = select.select([server.stdout], [], [], timeout)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        status = json.loads(server.stdout.readline())
        texts = [(file.seek(0), file.read())[1] for file in (out, err)]
    if not ended:
        raise subprocess.TimeoutExpired(words, timeout, *texts)
    return subprocess.CompletedProcess(words, status, *texts)


def run_on_ranks(
    command: list, ranks: int, *, env: dict[str, str], cwd: Path, timeout: float = 300
) -> subprocess.CompletedProcess:
    """The command on several ranks at once, with the environment that torchrun gives them; their outputs one behind
    the other. A rank that fails is waited for by the others until the time is over."""
    world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def one(rank: int) -> subprocess.CompletedProcess:
        place = {**env, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run(command, env=place, cwd=cwd, timeout=timeout, server=rank)

    with ThreadPoolExecutor(ranks) as pool:
        done = list(pool.map(one, range(ranks)))
    outputs = ("".join(getattr(rank, name) for rank in done) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(command, max(abs(rank.returncode) for rank in done), *outputs)


def _at_import(env: dict[str, str]) -> dict[str, str]:
    return {key: env[key] for key in env if key.startswith(_READ_AT_IMPORT) and key not in _OF_NO_CONCERN}


@functools.cache
def _server(number: int) -> subprocess.Popen:
    """One for each process of the tests and each rank; it ends with them, when nothing more comes through its pipe."""
    command = [sys.executable, "-m", "tests.helpers.warm_python"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | _FOR_ALL, stdin=pipe, stdout=pipe, text=True)


def _import_all() -> None:
    import rich.progress
    import rich.table  # noqa: F401
    from numba.core.registry import cpu_target

    import fastintl.detection
    import fastintl.training.pretraining  # noqa: F401

    cpu_target.target_context.refresh()  # half a second, which the first compiled loop would take


def _serve() -> dict:
    """Forks for each request and tells its process and, when it has ended, its status. Returns in the fork alone."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in requests:
        pid = os.fork()
        if pid == 0:
            requests.close()
            answers.close()
            return json.loads(line)
        print(pid, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)
    os._exit(0)


def _become(request: dict) -> None:
    """Takes the folder, environment and output of a request, and runs it as ``python`` runs its words."""
    for number, path in enumerate(request["files"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
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


if __name__ == "__main__":
    _import_all()
    _become(_serve())
