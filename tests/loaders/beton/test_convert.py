"""The conversion: what it writes, the same bytes from any number of threads, and a sentence for whatever is wrong."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.beton.convert import convert
from loaders.beton.encoding import Storage, encode_image
from loaders.beton.file import BetonFile
from loaders.datasets.folder import class_tree
from loaders.datasets.split import Split
from loaders.errors import UserError
from tests.helpers.images import UNREADABLE, same_files


def test_every_image_is_stored_in_order_with_its_name_and_label(mixed_folder, converted):
    split = class_tree(mixed_folder)
    file = BetonFile(converted / "p.beton")
    good = [i for i, name in enumerate(split.names) if name not in UNREADABLE]
    assert list(file.names) == [split.names[i] for i in good] and len(file) == 117
    assert file.labels.tolist() == split.labels[good].tolist()
    assert file.classes == ["a", "b", "c"]
    for i, index in enumerate(good):
        data = (mixed_folder / split.names[index]).read_bytes()
        stored = encode_image(data, Storage())
        assert file.read(i).tobytes() == stored.data and (stored.data == data) == (data[:2] == b"\xff\xd8")
        assert (file.heights[i], file.widths[i], file.modes[i]) == (stored.height, stored.width, stored.mode)


def test_report_and_quarantine_list(mixed_folder, tmp_path):
    report = convert(class_tree(mixed_folder), tmp_path / "new" / "p.beton")
    assert (report.images, report.skipped, report.resumed, report.finished_before) == (117, 3, 0, False)
    assert report.bytes == (tmp_path / "new" / "p.beton").stat().st_size and report.seconds > 0
    lines = dict(line.split("\t") for line in Path(report.quarantine).read_text().splitlines())
    assert set(lines) == set(UNREADABLE)
    assert lines["a/empty.JPEG"] == "empty file" and "<html>" in lines["b/page.JPEG"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["p.beton", "p.quarantine.txt"]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_bytes_do_not_depend_on_threads(mixed_folder, converted, tmp_path, threads):
    convert(class_tree(mixed_folder), tmp_path / "p.beton", threads=threads)
    assert same_files(tmp_path, converted)


def written(path: Path) -> tuple[int, ...]:
    """What changes when a file is written again, and does not when it is read."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def test_a_finished_file_is_kept_and_never_overwritten(mixed_folder, converted, tmp_path):
    target = tmp_path / "p.beton"
    convert(class_tree(mixed_folder), target)
    before = written(target)
    report = convert(class_tree(mixed_folder), target)
    assert report.finished_before and (report.images, report.skipped) == (117, 3)
    (tmp_path / "p.beton.journal").write_bytes(b"killed just before its removal")
    convert(class_tree(mixed_folder), target)
    assert written(target) == before and same_files(tmp_path, converted)
    with pytest.raises(UserError, match="other images or options; remove it"):
        convert(class_tree(mixed_folder), target, Storage(longest_side=50))
    assert written(target) == before
    target.write_text("my notes")
    with pytest.raises(UserError, match="remove it"):
        convert(class_tree(mixed_folder), target)
    assert target.read_text() == "my notes"


def test_no_readable_image(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "in" / "a" / f"{i}.JPEG").write_text("words")
    target = tmp_path / "out" / "p.beton"
    with pytest.raises(UserError, match="none of the 3 images can be read; .*quarantine.txt"):
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


def test_unreadable_files_are_listed_and_a_failing_disk_stops(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "a" / "good.png")
    (tmp_path / "in" / "a" / "link.png").symlink_to("nowhere.png")
    report = convert(class_tree(tmp_path / "in"), tmp_path / "p.beton")
    assert report.images == 1
    assert Path(report.quarantine).read_text() == ("a/link.png\tcannot be read: a link to a file that does not exist\n")
    split = class_tree(tmp_path / "in")
    (tmp_path / "in" / "a" / "good.png").unlink()
    with pytest.raises(UserError, match="is gone; start again"):
        convert(split, tmp_path / "q.beton")

    def failing(index):
        raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match="Input/output error; nothing that was done is lost"):
        convert(replace(split, load=failing), tmp_path / "r.beton")


def test_a_place_that_cannot_be_written(mixed_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: "):
        convert(class_tree(mixed_folder), tmp_path / "file" / "p.beton")


def test_ffcv_reads_a_converted_folder(converted, ffcv_loader):
    from ffcv.fields.decoders import CenterCropRGBImageDecoder

    path = converted / "p.beton"
    file = BetonFile(path)
    pipelines = {"image": [CenterCropRGBImageDecoder((16, 16), 1.0)]}
    order = ffcv_loader.OrderOption.SEQUENTIAL
    batches = ffcv_loader.Loader(str(path), 50, num_workers=1, order=order, drop_last=False, pipelines=pipelines)
    images, labels = zip(*[(image.copy(), label.clone()) for image, label in batches], strict=True)
    assert np.concatenate(labels).ravel().tolist() == file.labels.tolist()
    for i, got in enumerate(np.concatenate(images)):
        image = Image.open(io.BytesIO(file.read(i).tobytes())).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        crop = image.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.BOX)
        assert np.corrcoef(got.ravel(), np.asarray(crop).ravel())[0, 1] > 0.9


def test_the_look_ahead_is_bounded(tmp_path):
    """Encoded images do not pile up in memory where writing is slower than reading."""
    images, ahead = 600, []
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    partial = tmp_path / "p.beton.partial"

    def load(index):
        written = max(0, partial.stat().st_size - (8 << 20)) // noise.nbytes
        ahead.append(index - written)
        return noise

    names = [f"{i}" for i in range(images)]
    split = Split(names, np.zeros(images, np.int64), ["x"], load, "noise", raw=True)
    convert(split, tmp_path / "p.beton", threads=2)
    assert len(ahead) == images and max(ahead) < 64
