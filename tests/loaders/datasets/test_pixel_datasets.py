"""CIFAR and STL-10 from tiny copies of their public files, and what is said of files that are none."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from loaders.beton.convert import convert
from loaders.beton.file import RAW, BetonFile
from loaders.datasets.catalogue import open_dataset
from loaders.errors import UserError
from tests.helpers.public_layouts import write_cifar10, write_cifar100, write_stl10


@pytest.fixture
def cifar10(tmp_path):
    return tmp_path, write_cifar10(tmp_path)


def check_cifar(splits, train_tables, test_table, label_key, classes, tmp_path):
    for part, tables in (("train", train_tables), ("val", [test_table])):
        split = splits[part]
        assert split.raw and split.classes == classes
        assert split.labels.tolist() == sum((table[label_key] for table in tables), [])
        data = np.concatenate([table["data"] for table in tables])
        file = BetonFile(convert(split, tmp_path / f"{part}.beton").file)
        assert len(file) == len(data) and (file.modes == RAW).all() and (file.heights == 32).all()
        for i, row in enumerate(data):
            pixels = file.read(i).reshape(32, 32, 3)
            assert np.array_equal(pixels, row.reshape(3, 32, 32).transpose(1, 2, 0))


def test_cifar10(cifar10, tmp_path):
    root, tables = cifar10
    batches = [tables[f"data_batch_{i}"] for i in range(1, 6)]
    classes = tables["batches.meta"]["label_names"]
    check_cifar(open_dataset("cifar10", root), batches, tables["test_batch"], "labels", classes, tmp_path)
    inside = open_dataset("cifar10", root / "cifar-10-batches-py")
    assert inside["train"].fingerprint == open_dataset("cifar10", root)["train"].fingerprint


def test_cifar10_in_its_archive(cifar10, tmp_path):
    root, tables = cifar10
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    (root / "cifar-10-batches-py").rename(root / "away")
    val = open_dataset("cifar10", root)["val"]
    assert val.labels.tolist() == tables["test_batch"]["labels"]
    archive = (root / "cifar-10-python.tar.gz").read_bytes()
    for damaged in (archive[: len(archive) // 2], b"words", b""):
        (root / "cifar-10-python.tar.gz").write_bytes(damaged)
        with pytest.raises(UserError, match="cifar-10-python.tar.gz is damaged"):
            open_dataset("cifar10", root)


def test_archives_are_read_without_unpacking(cifar10, tmp_path):
    root, tables = cifar10
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    place = tmp_path / "archive"
    place.mkdir()
    (place / "cifar-10-python.tar.gz").write_bytes(buffer.getvalue())
    train = open_dataset("cifar10", place)["train"]
    assert len(train) == 20 and [path.name for path in place.iterdir()] == ["cifar-10-python.tar.gz"]
    assert np.array_equal(train.load(5), tables["data_batch_2"]["data"][1].reshape(3, 32, 32).transpose(1, 2, 0))


def test_cifar100(tmp_path):
    tables = write_cifar100(tmp_path)
    classes = tables["meta"]["fine_label_names"]
    splits = open_dataset("cifar100", tmp_path)
    check_cifar(splits, [tables["train"]], tables["test"], "fine_labels", classes, tmp_path)


def test_a_pickle_written_by_python_2(cifar10):
    """The public files hold byte strings of Python 2, written by hand here: protocol 2, str opcodes."""
    root, tables = cifar10
    table = tables["test_batch"]
    data = table["data"]

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01" + b"K%cM\x00\x0c\x86" % len(data) + b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + text(data.tobytes()) + b"tb"
    )
    labels = b"](" + b"".join(b"K%c" % label for label in table["labels"]) + b"e"
    names = b"](" + b"".join(text(name.encode()) for name in table["filenames"]) + b"e"
    body = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + text(b"filenames") + names + b"u."
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(body)
    val = open_dataset("cifar10", root)["val"]
    assert val.labels.tolist() == table["labels"]
    assert np.array_equal(val.load(2), data[2].reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_pickle_that_would_run_code_is_refused(cifar10, tmp_path):
    root, _ = cifar10

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="test_batch is not one of CIFAR's public files: it asks for posix.mkdir"):
        open_dataset("cifar10", root)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"words", pickle.dumps([1]), pickle.dumps({"data": 1}), pickle.dumps({})])
def test_cifar_files_that_are_none(cifar10, content):
    root, _ = cifar10
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(UserError, match="data_batch_3 is not one of CIFAR's public files"):
        open_dataset("cifar10", root)
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(UserError, match="there is no file .*data_batch_3"):
        open_dataset("cifar10", root)


@pytest.fixture
def stl10(tmp_path):
    return tmp_path, write_stl10(tmp_path)


def test_stl10(stl10, tmp_path):
    root, images = stl10
    splits = open_dataset("stl10", root)
    assert list(splits) == ["train", "train_labelled", "val"]
    assert splits["train"].labels.tolist() == [9, 8, 7, -1, -1, -1, -1]
    assert splits["train_labelled"].labels.tolist() == [9, 8, 7] and splits["val"].labels.tolist() == [9, 8]
    report = convert(splits["train"], tmp_path / "stl10_train.beton")
    assert report.images == 7 and len(report.empty_classes) == 7
    file = BetonFile(report.file)
    for i, pixels in enumerate([*images["train"], *images["unlabeled"]]):
        assert np.array_equal(file.read(i).reshape(96, 96, 3), pixels)
    assert file.labels.tolist() == [9, 8, 7, -1, -1, -1, -1] and file.classes[2] == "thing2"


def test_stl10_damage(stl10):
    root, _ = stl10
    folder = root / "stl10_binary"
    shutil.copytree(folder, root / "less" / "stl10_binary")
    (root / "less" / "stl10_binary" / "unlabeled_X.bin").unlink()
    with pytest.raises(UserError, match="there is no file .*unlabeled_X.bin"):
        open_dataset("stl10", root / "less")
    for name, size, words in (
        ("test_y.bin", 1, "a label from 1 to 10"),
        ("train_X.bin", 1000, "not a multiple"),
    ):
        os.truncate(folder / name, size)
        with pytest.raises(UserError, match=words):
            open_dataset("stl10", root)
