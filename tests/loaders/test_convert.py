"""The conversion: same bytes whatever happens on the way, and a sentence for whatever is wrong."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.beton_file import BetonFile
from loaders.convert import convert
from loaders.datasets.folder import class_tree
from loaders.datasets.split import Split
from loaders.errors import UserError
from loaders.picture_encoding import Storage, encode_picture

REPOSITORY = Path(__file__).resolve().parents[2]
BAD = {"a/empty.JPEG": b"", "b/page.JPEG": b"<html>not found</html>", "b/words.jpg": b"just words"}

# Converts a folder slowly, and makes every picture last at once; the size of its files can be limited.
CHILD = """
import resource, signal, sys, time
from dataclasses import replace
from loaders import convert
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


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """120 pictures of several sizes and forms in three classes, three of them bad."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c/deep"):
        (root / name).mkdir(parents=True)
        for i in range(39):
            picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            picture = picture.resize(tuple(rng.integers(40, 160, 2).tolist()), Image.Resampling.BICUBIC)
            picture.save(root / name / f"{i}.JPEG", "PNG" if i % 3 == 0 else "JPEG")
    for name, data in BAD.items():
        (root / name).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory) -> Path:
    """The file and the quarantine list of an undisturbed conversion."""
    folder = tmp_path_factory.mktemp("finished")
    convert(class_tree(tree), folder / "p.beton", threads=1)
    return folder


def same(folder: Path, finished: Path) -> bool:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files == {path.name: path.read_bytes() for path in finished.iterdir()}


def committed(folder: Path) -> int:
    journal = folder / "p.beton.journal"
    return max(0, journal.stat().st_size - 64) // 24 if journal.exists() else 0


def kill_after(process: subprocess.Popen, folder: Path, pictures: int) -> None:
    deadline = time.monotonic() + 60
    while committed(folder) < pictures and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()


def test_every_picture_is_stored_in_order_with_its_name_and_label(tree, finished):
    split = class_tree(tree)
    file = BetonFile(finished / "p.beton")
    good = [i for i, name in enumerate(split.names) if name not in BAD]
    assert list(file.names) == [split.names[i] for i in good] and len(file) == 117
    assert file.labels.tolist() == split.labels[good].tolist()
    assert file.classes == ["a", "b", "c"]
    for i, index in enumerate(good):
        data = (tree / split.names[index]).read_bytes()
        stored = encode_picture(data, Storage())
        assert file.read(i).tobytes() == stored.data and (stored.data == data) == (data[:2] == b"\xff\xd8")
        assert (file.heights[i], file.widths[i], file.modes[i]) == (stored.height, stored.width, stored.mode)


def test_report_and_quarantine_list(tree, tmp_path):
    report = convert(class_tree(tree), tmp_path / "new" / "p.beton")
    assert (report.pictures, report.skipped, report.resumed, report.finished_before) == (117, 3, 0, False)
    assert report.bytes == (tmp_path / "new" / "p.beton").stat().st_size and report.seconds > 0
    lines = dict(line.split("\t") for line in Path(report.quarantine).read_text().splitlines())
    assert set(lines) == set(BAD)
    assert lines["a/empty.JPEG"] == "empty file" and "<html>" in lines["b/page.JPEG"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["p.beton", "p.quarantine.txt"]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_bytes_do_not_depend_on_threads(tree, finished, tmp_path, threads):
    convert(class_tree(tree), tmp_path / "p.beton", threads=threads)
    assert same(tmp_path, finished)


def test_killed_again_and_again_it_ends_with_the_same_bytes(tree, finished, tmp_path):
    target = tmp_path / "p.beton"
    for pictures in (1, 15 + random.randrange(10), 50, 90):
        kill_after(start(tree, target, seconds=0.02), tmp_path, pictures)
        assert not target.exists()
    found = committed(tmp_path)
    assert found >= 90
    process = start(tree, target)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"resumed={found}" in output and f"holds {found} of 120 pictures; going on" in errors
    assert same(tmp_path, finished)


def interrupted(tree: Path, folder: Path) -> Path:
    kill_after(start(tree, folder / "p.beton", seconds=0.02), folder, 60)
    return folder / "p.beton"


def test_torn_or_missing_leftovers_do_not_matter(tree, finished, tmp_path):
    def torn(name, change):
        folder = tmp_path / name
        folder.mkdir()
        target = interrupted(tree, folder)
        change(folder)
        report = convert(class_tree(tree), target)
        assert same(folder, finished), name
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
    assert torn("no partial", lambda f: (f / "p.beton.partial").unlink()) <= 1  # a bad first picture needs none
    assert torn("no journal", lambda f: (f / "p.beton.journal").unlink()) == 0


def test_other_pictures_or_options_start_over(tree, tmp_path, capsys):
    target = interrupted(tree, tmp_path)
    report = convert(class_tree(tree), target, Storage(quality=50))
    assert report.resumed == 0 and "starting over" in capsys.readouterr().err
    fresh = tmp_path / "fresh"
    convert(class_tree(tree), fresh / "p.beton", Storage(quality=50))
    assert (fresh / "p.beton").read_bytes() == target.read_bytes()


def test_a_finished_file_is_kept_and_never_overwritten(tree, finished, tmp_path):
    target = tmp_path / "p.beton"
    convert(class_tree(tree), target)
    before = target.stat()
    report = convert(class_tree(tree), target)
    assert report.finished_before and (report.pictures, report.skipped) == (117, 3)
    (tmp_path / "p.beton.journal").write_bytes(b"killed just before its removal")
    convert(class_tree(tree), target)
    assert target.stat() == before and same(tmp_path, finished)
    with pytest.raises(UserError, match="other pictures or options; remove it"):
        convert(class_tree(tree), target, Storage(longest_side=50))
    assert target.stat() == before
    target.write_text("my notes")
    with pytest.raises(UserError, match="remove it"):
        convert(class_tree(tree), target)
    assert target.read_text() == "my notes"


def test_two_at_once_are_refused(tree, tmp_path):
    process = start(tree, tmp_path / "p.beton", seconds=0.05)
    try:
        while not committed(tmp_path):
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(UserError, match="another process"):
            convert(class_tree(tree), tmp_path / "p.beton")
    finally:
        process.kill()
        process.communicate()


def check_full_disk(process: subprocess.Popen, reason: str) -> None:
    _, errors = process.communicate()
    assert process.returncode == 2 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: ") and reason in errors and "go" in errors


def test_file_size_limit_gives_a_sentence_and_goes_on_later(tree, finished, tmp_path):
    check_full_disk(start(tree, tmp_path / "p.beton", limit=(8 << 20) + 150_000), "File too large")
    assert not (tmp_path / "p.beton").exists()
    report = convert(class_tree(tree), tmp_path / "p.beton")
    assert report.resumed > 20 and same(tmp_path, finished)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_full_disk_gives_a_sentence_and_goes_on_later(tree, finished, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        check_full_disk(start(tree, disk / "p.beton"), "No space left")
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        report = convert(class_tree(tree), disk / "p.beton")
        assert report.resumed > 20 and same(disk, finished)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_no_readable_picture(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "in" / "a" / f"{i}.JPEG").write_text("words")
    target = tmp_path / "out" / "p.beton"
    with pytest.raises(UserError, match="none of the 3 pictures can be read; .*quarantine.txt"):
        convert(class_tree(tmp_path / "in"), target)
    assert [path.name for path in target.parent.iterdir()] == ["p.quarantine.txt"]
    assert len((target.parent / "p.quarantine.txt").read_text().splitlines()) == 3


def test_empty_classes_keep_their_index(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / "in" / name).mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "c" / "x.png")
    (tmp_path / "in" / "b" / "bad.png").write_bytes(b"")
    report = convert(class_tree(tmp_path / "in"), tmp_path / "p.beton")
    assert report.empty_classes == ["a", "b", "d"]
    file = BetonFile(tmp_path / "p.beton")
    assert file.labels.tolist() == [2] and file.classes == ["a", "b", "c", "d"]


def test_unreadable_files_are_listed_and_a_failing_disk_stops(tree, tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "a" / "good.png")
    (tmp_path / "in" / "a" / "link.png").symlink_to("nowhere.png")
    report = convert(class_tree(tmp_path / "in"), tmp_path / "p.beton")
    assert report.pictures == 1
    assert Path(report.quarantine).read_text() == ("a/link.png\tcannot be read: a link to a file that does not exist\n")
    split = class_tree(tmp_path / "in")
    (tmp_path / "in" / "a" / "good.png").unlink()
    with pytest.raises(UserError, match="is gone; start again"):
        convert(split, tmp_path / "q.beton")

    def failing(index):
        raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match="Input/output error; nothing that was done is lost"):
        convert(replace(split, load=failing), tmp_path / "r.beton")


def test_a_place_that_cannot_be_written(tree, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: "):
        convert(class_tree(tree), tmp_path / "file" / "p.beton")


def test_ffcv_reads_a_converted_folder(finished):
    loader = pytest.importorskip("ffcv.loader")
    from ffcv.fields.decoders import CenterCropRGBImageDecoder

    path = finished / "p.beton"
    file = BetonFile(path)
    pipelines = {"image": [CenterCropRGBImageDecoder((16, 16), 1.0)]}
    order = loader.OrderOption.SEQUENTIAL
    batches = loader.Loader(str(path), 50, num_workers=1, order=order, drop_last=False, pipelines=pipelines)
    images, labels = zip(*[(image.copy(), label.clone()) for image, label in batches], strict=True)
    assert np.concatenate(labels).ravel().tolist() == file.labels.tolist()
    for i, got in enumerate(np.concatenate(images)):
        picture = Image.open(io.BytesIO(file.read(i).tobytes())).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        crop = picture.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.BOX)
        assert np.corrcoef(got.ravel(), np.asarray(crop).ravel())[0, 1] > 0.9


def test_the_look_ahead_is_bounded(tmp_path):
    """Encoded pictures do not pile up in memory where writing is slower than reading."""
    pictures, ahead = 600, []
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    partial = tmp_path / "p.beton.partial"

    def load(index):
        written = max(0, partial.stat().st_size - (8 << 20)) // noise.nbytes
        ahead.append(index - written)
        return noise

    names = [f"{i}" for i in range(pictures)]
    split = Split(names, np.zeros(pictures, np.int64), ["x"], load, "noise", raw=True)
    convert(split, tmp_path / "p.beton", threads=2)
    assert len(ahead) == pictures and max(ahead) < 64


def test_interrupt_keeps_what_is_done(tree, finished, tmp_path):
    process = start(tree, tmp_path / "p.beton", seconds=0.05, commit=1e9)
    partial = tmp_path / "p.beton.partial"
    while not partial.exists() or partial.stat().st_size < (8 << 20) + 20_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "Traceback" not in errors
    assert convert(class_tree(tree), tmp_path / "p.beton").resumed > 0 and same(tmp_path, finished)
