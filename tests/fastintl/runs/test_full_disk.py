"""Disks that are full and folders that are gone: nothing that was whole is lost, and training goes on."""

import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest
import torch

from fastintl.runs.checkpoint import Checkpoints
from fastintl.runs.lock import lock_run
from fastintl.runs.metrics_file import MetricsFile, read_metrics
from fastintl.runs.save_points import SavePoints
from loaders.errors import UserError
from loaders.files import remove_temporaries, write_text
from tests.helpers.training import ROOT, command, environment


@contextmanager
def largest_file(size: int):
    """The kernel refuses to let a file grow past ``size`` bytes, as on a full disk; it does not spare root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def state(step: int, values: int = 100_000) -> dict:
    return {"step": step, "w": torch.full((values,), float(step))}


def test_a_save_that_fails_is_told_and_the_next_one_tries_again(tmp_path):
    warnings = []
    points = SavePoints(Checkpoints(tmp_path), minutes=0, saved=None, warn=warnings.append)
    points.save(lambda: state(1), 1, None)
    with largest_file(20_000):
        points.save(lambda: state(2), 2, None)
    assert len(warnings) == 1 and "step 2" in warnings[0] and "File too large" in warnings[0]
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]  # nothing half written either
    with pytest.raises(UserError, match="step 2.*File too large.*step 1.*start the same command again"):
        points.require(2)
    points.save(lambda: state(3), 3, None)
    points.require(3)
    assert torch.equal(Checkpoints(tmp_path).load_latest()["w"], state(3)["w"]) and len(warnings) == 1


def test_a_folder_that_is_gone_is_made_again(tmp_path):
    warnings = []
    points = SavePoints(Checkpoints(tmp_path / "run" / "checkpoints"), minutes=0, saved=None, warn=warnings.append)
    points.save(lambda: state(1), 1, None)
    shutil.rmtree(tmp_path / "run")
    points.save(lambda: state(2), 2, None)
    assert not warnings and Checkpoints(tmp_path / "run" / "checkpoints").load_latest()["step"] == 2
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("a file in its place")
    points.save(lambda: state(3), 3, None)
    assert "Not a directory" in warnings[0] or "File exists" in warnings[0]


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    Checkpoints(tmp_path).save(state(1), 1)
    (tmp_path / ".step_00000002.pt.writing").write_bytes(b"half")
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]


def test_the_epoch_kept_for_good_is_there_before_the_newest(tmp_path, monkeypatch):
    """So a kill between the two renames cannot lose it: the run resumes before it and makes both again."""
    renamed = []
    replace = shutil.os.replace
    monkeypatch.setattr("os.replace", lambda old, new: (renamed.append(new.name), replace(old, new)))
    Checkpoints(tmp_path, keep_every=1).save(state(6), 6, epoch=1)
    assert renamed == ["epoch_0001.pt", "step_00000006.pt"]


def test_without_hard_links_the_epoch_is_copied(tmp_path, monkeypatch):
    def refused(*names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    Checkpoints(tmp_path, keep_every=1).save(state(6), 6, epoch=1)
    assert torch.load(tmp_path / "epoch_0001.pt", weights_only=True)["step"] == 6


def test_metrics_wait_in_memory_while_the_disk_is_full(tmp_path):
    warnings = []
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, -1, warnings.append)
    metrics.write(step=1, loss=1.0)
    with largest_file(path.stat().st_size + 10):  # the next row fits in part
        metrics.write(step=2, loss=2.0)
        metrics.write(step=3, loss=3.0)
        assert read_metrics(path) == [{"step": 1, "loss": 1.0}] and path.read_text().endswith("\n")
    assert len(warnings) == 1 and "File too large" in warnings[0]
    assert [row["step"] for row in metrics.rows()] == [1, 2, 3]
    metrics.write(step=4, loss=4.0)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


def test_a_text_that_does_not_fit_leaves_the_old_one(tmp_path):
    write_text(tmp_path / "x", "old")
    with largest_file(10), pytest.raises(OSError):
        write_text(tmp_path / "x", "new" * 10)
    assert (tmp_path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_in_training_is_refused_to_a_second_process(tmp_path, monkeypatch):
    monkeypatch.setattr("fastintl.runs.lock._PATIENCE_SECONDS", 0.2)
    held = lock_run(tmp_path)
    with pytest.raises(UserError, match="being trained by another process .process [0-9]+ on "):
        lock_run(tmp_path)
    held.close()
    lock_run(tmp_path).close()


def test_training_on_a_disk_that_fills_up_keeps_the_older_checkpoints_and_says_so(images, tmp_path):
    """On a real file system that holds two checkpoints of 3.8 MB and a half: the third and the last save fail."""
    in_namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=10m tmpfs {disk}"
    if subprocess.run([*in_namespace, mount], capture_output=True).returncode:
        pytest.skip("no file systems may be mounted here")
    script = f'{mount}; "$@"; status=$?; cp -r {disk} {kept}; exit $status'  # the disk is gone with the command
    arguments = command(disk, images, eval__every=0)
    result = subprocess.run(
        [*in_namespace, script, "sh", *arguments],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    said = [line for line in result.stderr.splitlines() if "No space left on device" in line]
    assert [line.partition(":")[0] for line in said] == ["warning", "warning", "error"]
    assert "step 18" in said[0] and "step 24" in said[1] and "newest there is of step 12" in said[2]
    saved = sorted((kept / "run" / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step_00000006.pt", "step_00000012.pt"]
    assert [torch.load(path, weights_only=True)["step"] for path in saved] == [6, 12]
    assert read_metrics(kept / "run" / "metrics.jsonl")[-1]["step"] == 24
