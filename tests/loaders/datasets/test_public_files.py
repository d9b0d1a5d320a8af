"""Datasets read straight from their public files, those files' checksums, and how they are fetched."""

import functools
import hashlib
import http.server
import shutil
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import CenterCrop, CropSpec, MultiCrop, UserError, make_loader
from loaders.beton.convert import convert
from loaders.datasets.catalogue import Reference, open_dataset
from loaders.datasets.public_files import PublicFiles, check_file, download_dataset, public_files, verify
from loaders.planning.data_facts import data_facts
from loaders.sources import open_images
from tests.helpers import warm_python
from tests.helpers.public_layouts import write_cifar10, write_stl10, write_tiny_imagenet

ROOT = Path(__file__).resolve().parents[3]
RECIPE = MultiCrop((CropSpec(24), CropSpec(16, scale=(0.1, 0.5))))


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_words_that_refer_to_splits(monkeypatch):
    monkeypatch.setenv("FASTINTL_DATA", "/sets")
    assert Reference.parse("cifar10:val@/a/b@c") == Reference("cifar10", "val", Path("/a/b@c"))
    assert Reference.parse("tiny-imagenet:train") == Reference("tiny-imagenet", "train", Path("/sets/tiny-imagenet"))
    assert str(Reference("stl10", "train", Path("x"))) == "stl10:train@x"
    for other in ("cifar10", "cifar11:train@x", "C:\\images", "cifar10:@x", "a/cifar10:train@x"):
        assert Reference.parse(other) is None


@pytest.mark.parametrize("source", ["auto", "memory", "folder"])
def test_a_split_gives_the_crops_of_its_conversion(tmp_path, source):
    write_cifar10(tmp_path)
    beton = convert(open_dataset("cifar10", tmp_path)["train"], tmp_path / "cifar10_train.beton").file
    loaders = [
        make_loader(data, RECIPE, 4, seed=3, source=source) for data in (f"cifar10:train@{tmp_path}", Path(beton))
    ]
    for straight, converted in zip(*loaders, strict=True):
        assert torch.equal(straight.ids, converted.ids) and torch.equal(straight.labels, converted.labels)
        for one, other in zip(straight.views, converted.views, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    for loader in loaders:
        loader.close()


def test_stl10_with_and_without_labels(tmp_path):
    images = write_stl10(tmp_path)
    train, labelled = (open_images(f"stl10:{split}@{tmp_path}") for split in ("train", "train_labelled"))
    assert train.labels.tolist() == [9, 8, 7, -1, -1, -1, -1] and labelled.labels.tolist() == [9, 8, 7]
    assert np.array_equal(train.decode(5).numpy(), images["unlabeled"][2])
    assert train.decoded_bytes == 7 * 96 * 96 * 3


def test_tiny_imagenet_val_has_its_labels(tmp_path):
    write_tiny_imagenet(tmp_path)
    (batch,) = make_loader(f"tiny-imagenet:val@{tmp_path}", CenterCrop(64, 64), 4)
    assert batch.labels.tolist() == [0, 1] and batch.views[0].shape == (2, 3, 64, 64)


def test_facts_of_pixels(tmp_path):
    write_cifar10(tmp_path)
    facts = data_facts(open_images(f"cifar10:train@{tmp_path}"))
    assert (facts.images, facts.classes, facts.mean_size, facts.jpegs) == (20, 10, (32, 32), 0)
    assert facts.decoded == 20 * 3072


@pytest.mark.parametrize(
    ("data", "source", "words"),
    [
        ("stl10:labelled@{}", "auto", "stl10 has no split labelled; it has train, train_labelled, val"),
        ("cifar10:train@{}/nowhere", "auto", "there is no folder .*nowhere; cifar10 expects"),
        ("stl10:val@{}", "ffcv", "FFCV reads .beton files, and .* is none"),
        ("cifar11:train@{}", "auto", "does not exist: give a .beton file, .* such as cifar10:train@data/cifar10"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, data, source, words):
    write_stl10(tmp_path)
    with pytest.raises(UserError, match=words):
        make_loader(data.format(tmp_path), RECIPE, 2, source=source)


def test_checksums_are_the_published_ones():
    published = {name: public.md5 for name, public in public_files().items()}
    assert published == {
        "cifar10": "c58f30108f718f92721af3b95e74349a",
        "cifar100": "eb9058c3a382ffc7106e4002c42a8d85",
        "stl10": "91f7769df0f17e558f3565bffb0c7dfb",
        "tiny-imagenet": "90528d7ca1a48142e341f4ef8d21d0de",
    }
    assert set(public_files()["cifar10"].files) == {
        *(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"
    }  # fmt: skip


def test_files_that_are_not_the_published_ones_are_named(tmp_path):
    write_cifar10(tmp_path)
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(UserError, match="data_batch_1 is not the published file: its MD5 sum is"):
            verify("cifar10", root)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    with pytest.raises(UserError, match="cifar-10-python.tar.gz is not the published file"):
        verify("cifar10", tmp_path)
    for name in ("folder", "imagenet", "tiny-imagenet"):
        verify(name, tmp_path)  # have none
    command = [sys.executable, ROOT / "tools" / "write_ffcv.py", "cifar10", "--root", tmp_path, "--out", tmp_path]
    refused = warm_python.run(command)
    assert refused.returncode == 2 and "download it again" in refused.stderr and refused.stderr.count("\n") == 1
    taken = warm_python.run([*command, "--no-verify"])
    assert taken.returncode == 0, taken.stderr


def test_a_file_found_right_is_read_again_only_after_a_change(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"right")
    md5 = hashlib.md5(b"right").hexdigest()
    check_file(file, md5)
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", None)
        check_file(file, md5)
    file.write_bytes(b"wrong")
    with pytest.raises(UserError, match="should be " + md5):
        check_file(file, md5)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # cannot be written
    file.write_bytes(b"right")
    check_file(file, md5)


@pytest.fixture
def server(tmp_path):
    """The address of a server of ``tmp_path/served``, which holds an archive of the folder ``things``."""
    (tmp_path / "served" / "things").mkdir(parents=True)
    (tmp_path / "served" / "things" / "a").write_text("content")
    with tarfile.open(tmp_path / "served" / "things.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "served" / "things", "things")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_download(server, tmp_path):
    md5 = hashlib.md5((tmp_path / "served" / "things.tar.gz").read_bytes()).hexdigest()
    public = PublicFiles(f"{server}/things.tar.gz", "things.tar.gz", md5, "things", {})
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / ".things.tar.gz.writing.0123.partial").write_text("what a killed run left")
    assert download_dataset(public, out) == out / "things"
    assert (out / "things" / "a").read_text() == "content" and [p.name for p in out.iterdir()] == ["things"]
    shutil.rmtree(tmp_path / "served")
    assert download_dataset(public, out) == out / "things"  # nothing to fetch
    with pytest.raises(UserError, match=r"things.tar.gz cannot be fetched \(.*404.*by other means"):
        download_dataset(public, tmp_path / "again")


def test_a_download_of_something_else_is_refused(server, tmp_path):
    command = [sys.executable, ROOT / "tools" / "download.py", "cifar10", "--out", tmp_path / "out"]
    result = warm_python.run([*command, "--url", f"{server}/things.tar.gz"])
    assert result.returncode == 2 and not (tmp_path / "out" / "cifar-10-batches-py").exists()
    assert "things.tar.gz is not the published file: its MD5 sum is" in result.stderr.splitlines()[-1]
    assert not any((tmp_path / "out").iterdir())
