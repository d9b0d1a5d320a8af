"""wandb as a mirror, with the real wandb and no network: whatever goes wrong there, the run goes on."""

import logging
import os
import pty
import socket
import subprocess
import sys

import pytest

from fastintl import config as configuration
from fastintl.runs.folder import RunFolder
from fastintl.runs.wandb_mirror import WandbMirror
from loaders.errors import UserError
from tests.helpers.training import ROOT, command, environment, last_state, train

pytest.importorskip("wandb")


@pytest.fixture
def home(tmp_path) -> dict[str, str]:
    """The environment of a user who never logged in."""
    (tmp_path / "home").mkdir()
    own = {key: value for key, value in environment().items() if not key.startswith("WANDB_")}
    return own | {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "home" / "netrc")}


def test_without_login_a_run_on_a_terminal_asks_nothing_and_warns_once(images, tmp_path, home):
    terminal, theirs = pty.openpty()
    changes = {"log__wandb": "online", "train__max_steps": 6, "eval__every": 0}
    process = subprocess.Popen(
        command(tmp_path, images, **changes), env=home, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
    os.close(terminal)
    assert process.wait(timeout=120) == 0, shown.decode()
    text = " ".join(shown.decode().split())
    assert text.count("wandb mirrors nothing from here on") == 1 and "wandb login" in text
    assert "6/6" in text  # the bar
    assert last_state(tmp_path)["step"] == 6


def test_a_server_that_never_answers_holds_up_nothing(tmp_path, home):
    code = (
        "import os, sys; from pathlib import Path; from fastintl import config\n"
        "from fastintl.runs import folder as run_folder, wandb_mirror as module\n"
        "module._START_SECONDS = 2.0\n"
        "folder = run_folder.RunFolder(Path(sys.argv[1]))\n"
        "mirror = module.WandbMirror(config.load(None, ['log.wandb=online']), folder, None)\n"
        "mirror.log({'loss': 1.0}, 1); mirror.log({'loss': 1.0}, 2); mirror.close()\n"
        "assert len(mirror.run_id) == 8\n"
        "os._exit(0)\n"  # wandb's own end takes another 15 s
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = subprocess.run(
            [sys.executable, "-c", code, tmp_path],
            env=home | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0 and "Traceback" not in run.stderr
    assert run.stderr.count("wandb mirrors nothing from here on") == 1


def test_a_run_resumes_under_the_same_id_and_its_crops_are_there(images, tmp_path):
    folder = tmp_path / "run" / "wandb"
    for steps in (6, 12):
        assert train(tmp_path, images, log__wandb="offline", train__max_steps=steps, eval__every=0).returncode == 0
    written = [path.name.split("-")[-1] for path in folder.glob("offline-run-*")]
    assert written == [last_state(tmp_path)["wandb_id"]] * 2
    (sent,) = folder.glob("offline-run-*/files/media/images/crops_*.png")
    assert sent.read_bytes() == (tmp_path / "run" / "crops.png").read_bytes()


def test_what_wandb_raises_during_a_run_ends_the_mirror_alone(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    mirror = WandbMirror(configuration.load(None, ["log.wandb=offline"]), RunFolder(tmp_path), "abcd1234")
    mirror.log({"loss": 1.0, "spectrum": {"before": [1.0]}}, step=1)
    mirror._run.finish()  # from here on every call raises
    with caplog.at_level(logging.WARNING):
        for step in (2, 3):
            mirror.log({"loss": 1.0}, step)
        mirror.close()
    ours = [record.message for record in caplog.records if record.name == "fastintl"]
    assert len(ours) == 1 and "the run goes on" in ours[0]
    assert mirror.run_id == "abcd1234"


def test_without_the_package_it_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # the import fails
    with pytest.raises(UserError, match="log.wandb=offline needs wandb: pip install wandb"):
        WandbMirror(configuration.load(None, ["log.wandb=offline"]), RunFolder(tmp_path), None)
