"""A conversion that is killed, interrupted or out of room goes on where it stopped and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loaders.beton.convert import convert
from loaders.beton.encoding import Storage
from loaders.datasets.folder import class_tree
from loaders.errors import UserError
from tests.helpers.images import same_files

REPOSITORY = Path(__file__).resolve().parents[3]

# Converts a folder slowly, and makes every image last at once; the size of its files can be limited.
CHILD = """
import resource, signal, sys, time
from dataclasses import replace
from loaders.beton import convert
from loaders.datasets.folder import class_tree
from loaders.errors import exit_on_user_error
root, target, seconds, commit, limit = sys.argv[1:]
convert.COMMIT_SECONDS = float(commit)
if int(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
split = class_tree(__import__("pathlib").Path(root))
load = split.load
def slow(index):
    time.sleep(float(seconds))
    return load(index)
exit_on_user_error(lambda: print(convert.convert(replace(split, load=slow), target, threads=2)))()
"""


def start(root: Path, target: Path, seconds: float = 0.0, commit: float = 0.0, limit: int = 0) -> subprocess.Popen:
    arguments = [root, target, seconds, commit, limit]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def committed(folder: Path) -> int:
    journal = folder / "p.beton.journal"
    return max(0, journal.stat().st_size - 64) // 24 if journal.exists() else 0


def kill_after(process: subprocess.Popen, folder: Path, images: int) -> None:
    deadline = time.monotonic() + 60
    while committed(folder) < images and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()


def test_killed_again_and_again_it_ends_with_the_same_bytes(mixed_folder, converted, tmp_path):
    target = tmp_path / "p.beton"
    for images in (1, 15 + random.randrange(10), 50, 90):
        kill_after(start(mixed_folder, target, seconds=0.02), tmp_path, images)
        assert not target.exists()
    found = committed(tmp_path)
    assert found >= 90
    process = start(mixed_folder, target)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"resumed={found}" in output and f"holds {found} of 120 images; going on" in errors
    assert same_files(tmp_path, converted)


def interrupted(mixed_folder: Path, folder: Path) -> Path:
    kill_after(start(mixed_folder, folder / "p.beton", seconds=0.02), folder, 60)
    return folder / "p.beton"


def test_torn_or_missing_leftovers_do_not_matter(mixed_folder, converted, tmp_path):
    def torn(name, change):
        folder = tmp_path / name
        folder.mkdir()
        target = interrupted(mixed_folder, folder)
        change(folder)
        report = convert(class_tree(mixed_folder), target)
        assert same_files(folder, converted), name
        return report.resumed

    def append(folder):
        with open(folder / "p.beton.journal", "ab") as journal:
            journal.write(b"\1" * 37)  # one and a half records
        with open(folder / "p.beton.partial", "ab") as partial:
            partial.write(b"\2" * 5000)

    assert torn("garbage", append) >= 60
    assert 0 < torn("cut", lambda f: os.truncate(f / "p.beton.partial", (8 << 20) + 60_000)) < 60
    assert torn("zeros", lambda f: os.truncate(f / "p.beton.journal", 64 + 24 * 100)) < 100
    assert torn("unlisted", lambda f: os.truncate(f / "p.quarantine.txt", 5)) < 40
    assert torn("no partial", lambda f: (f / "p.beton.partial").unlink()) <= 1  # a bad first image needs none
    assert torn("no journal", lambda f: (f / "p.beton.journal").unlink()) == 0


def test_other_images_or_options_start_over(mixed_folder, tmp_path, capsys):
    target = interrupted(mixed_folder, tmp_path)
    report = convert(class_tree(mixed_folder), target, Storage(quality=50))
    assert report.resumed == 0 and "starting over" in capsys.readouterr().err
    fresh = tmp_path / "fresh"
    convert(class_tree(mixed_folder), fresh / "p.beton", Storage(quality=50))
    assert (fresh / "p.beton").read_bytes() == target.read_bytes()


def test_two_at_once_are_refused(mixed_folder, tmp_path):
    process = start(mixed_folder, tmp_path / "p.beton", seconds=0.05)
    try:
        while not committed(tmp_path):
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(UserError, match="another process"):
            convert(class_tree(mixed_folder), tmp_path / "p.beton")
    finally:
        process.kill()
        process.communicate()


def check_full_disk(process: subprocess.Popen, reason: str) -> None:
    _, errors = process.communicate()
    assert process.returncode == 2 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: ") and reason in errors and "go" in errors


def test_file_size_limit_gives_a_sentence_and_goes_on_later(mixed_folder, converted, tmp_path):
    check_full_disk(start(mixed_folder, tmp_path / "p.beton", limit=(8 << 20) + 150_000), "File too large")
    assert not (tmp_path / "p.beton").exists()
    report = convert(class_tree(mixed_folder), tmp_path / "p.beton")
    assert report.resumed > 20 and same_files(tmp_path, converted)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_full_disk_gives_a_sentence_and_goes_on_later(mixed_folder, converted, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        check_full_disk(start(mixed_folder, disk / "p.beton"), "No space left")
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        report = convert(class_tree(mixed_folder), disk / "p.beton")
        assert report.resumed > 20 and same_files(disk, converted)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_interrupt_keeps_what_is_done(mixed_folder, converted, tmp_path):
    process = start(mixed_folder, tmp_path / "p.beton", seconds=0.05, commit=1e9)
    partial = tmp_path / "p.beton.partial"
    while not partial.exists() or partial.stat().st_size < (8 << 20) + 20_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "Traceback" not in errors
    assert convert(class_tree(mixed_folder), tmp_path / "p.beton").resumed > 0 and same_files(tmp_path, converted)
