"""Datasets of image files, from tiny copies of their public layouts, and what is said when a part is missing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.beton.convert import convert
from loaders.beton.file import BetonFile
from loaders.datasets.catalogue import NAMES, default_root, open_dataset
from loaders.datasets.folder import class_tree
from loaders.datasets.imagenet import IMAGENET100_WNIDS
from loaders.errors import UserError
from tests.helpers.public_layouts import write_tiny_imagenet

RNG = np.random.default_rng(0)


def save(path: Path, side: int = 8) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), np.uint8)).save(path, "JPEG")
    return path.read_bytes()


def tree(root: Path, *names: str) -> Path:
    for name in names:
        save(root / name)
    return root


# Folders


def test_class_tree_is_torchvisions_image_folder(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    root = tree(tmp_path, "dog/b.png", "dog/a.png", "cat/x/2.png", "cat/1.png", "Zebra/9.png", "ant-eater/1.png")
    (root / "empty").mkdir()
    theirs = datasets.ImageFolder(root, allow_empty=True)
    mine = class_tree(root)
    assert mine.classes == theirs.classes == ["Zebra", "ant-eater", "cat", "dog", "empty"]
    expected = {(os.path.relpath(path, root), label) for path, label in theirs.samples}
    assert set(zip(mine.names, mine.labels.tolist(), strict=True)) == expected
    assert mine.names == [
        "Zebra/9.png",
        "ant-eater/1.png",
        "cat/1.png",
        "cat/x/2.png",
        "dog/a.png",
        "dog/b.png",
    ]
    assert mine.load(3) == (root / "cat/x/2.png").read_bytes()


def test_hidden_files_and_folders_are_left_out_links_are_followed(tmp_path):
    root = tree(tmp_path / "root", "a/1.jpg", "a/.hidden.jpg", ".cache/x.jpg")
    tree(tmp_path / "elsewhere", "2.jpg")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "round").symlink_to(root)
    (root / "notes.txt").write_text("not a class")
    split = class_tree(root)
    assert split.classes == ["a", "b"] and split.names == ["a/1.jpg", "b/2.jpg"]


def test_folder_with_train_and_val(tmp_path):
    root = tree(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/c/2.jpg", "val/a/2.jpg")
    splits = open_dataset("folder", root)
    assert splits["val"].classes == splits["train"].classes == ["a", "b", "c"]
    assert splits["val"].names == ["a/2.jpg", "c/2.jpg"] and splits["val"].labels.tolist() == [0, 2]
    (root / "val").rename(root / "test")
    assert open_dataset("folder", root)["val"].fingerprint == splits["val"].fingerprint
    save(root / "test" / "dog" / "1.jpg")
    with pytest.raises(UserError, match="test/dog is not one of the 3 classes"):
        open_dataset("folder", root)


def test_folder_is_cut_by_a_hash_of_names(tmp_path):
    root = tree(tmp_path, *(f"{name}/{i}.jpg" for name in "abc" for i in range(100)))
    splits = open_dataset("folder", root, val_share=0.2)
    train, val = splits["train"], splits["val"]
    assert 30 < len(val) < 90 and len(train) + len(val) == 300
    assert not set(train.names) & set(val.names)
    assert train.classes == val.classes == ["a", "b", "c"]
    for split in (train, val):
        assert all(split.classes[label] == name[0] for name, label in zip(split.names, split.labels, strict=True))
        assert split.load(7) == (root / split.names[7]).read_bytes()
    more = tree(root, *(f"a/new{i}.jpg" for i in range(50)))
    assert set(val.names) <= set(open_dataset("folder", more, val_share=0.2)["val"].names)


def test_both_parts_of_a_tiny_folder_hold_something(tmp_path):
    root = tree(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    for share in (0.001, 0.999):
        splits = open_dataset("folder", root, val_share=share)
        assert len(splits["train"]) >= 1 and len(splits["val"]) >= 1
    splits = open_dataset("folder", root, val_share=0)
    assert list(splits) == ["train"] and len(splits["train"]) == 3
    for share in (1, -0.5, float("nan")):
        with pytest.raises(UserError, match="--val-share"):
            open_dataset("folder", root, val_share=share)


def test_folders_that_are_none(tmp_path):
    for name, words in (("missing", "there is no folder"), ("empty", "holds no class folders")):
        if name != "missing":
            (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=words):
            open_dataset("folder", tmp_path / name)
    (tmp_path / "bare" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no file in any of the 1 class folders"):
        open_dataset("folder", tmp_path / "bare")
    with pytest.raises(UserError, match="neither val/ nor test/"):
        open_dataset("folder", tree(tmp_path / "half", "train/a/1.jpg"))
    with pytest.raises(UserError, match="one image"):
        open_dataset("folder", tree(tmp_path / "one", "a/1.jpg"))


# ImageNet and its relatives


def test_imagenet(tmp_path):
    root = tree(tmp_path, "train/n02/n02_1.JPEG", "train/n01/n01_7.JPEG", "val/n01/v1.JPEG", "val/n02/v2.JPEG")
    splits = open_dataset("imagenet", root)
    assert splits["train"].names == ["n01/n01_7.JPEG", "n02/n02_1.JPEG"]
    assert splits["val"].labels.tolist() == [0, 1]
    report = convert(splits["train"], tmp_path / "imagenet_train.beton")
    file = BetonFile(report.file)
    assert file.read(1).tobytes() == (root / "train/n02/n02_1.JPEG").read_bytes() and file.classes == [
        "n01",
        "n02",
    ]


@pytest.mark.parametrize("table", ["LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", None])
def test_imagenet_with_flat_val(tmp_path, table):
    root = tree(tmp_path, "train/n01/a.JPEG", "train/n02/a.JPEG")
    wnids = ["n02", "n01", "n02"]
    names = [f"ILSVRC2012_val_{i:08d}" for i in (1, 2, 3)]
    tree(root, *(f"val/{name}.JPEG" for name in names))
    if table is None:
        with pytest.raises(UserError, match="val holds no class folders.*LOC_val_solution.csv"):
            open_dataset("imagenet", root)
        return
    if table.endswith("csv"):
        rows = [f"{name},{wnid} 85 1 499 272 " for name, wnid in zip(names, wnids, strict=True)]
        (root / table).write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    else:
        (root / table).write_text("\n".join(wnids) + "\n")
    val = open_dataset("imagenet", root)["val"]
    assert val.names == [f"{names[1]}.JPEG", f"{names[0]}.JPEG", f"{names[2]}.JPEG"]
    assert val.labels.tolist() == [0, 1, 1] and val.classes == ["n01", "n02"]
    assert val.load(0) == (root / "val" / val.names[0]).read_bytes()
    save(root / "val" / "other.JPEG")
    with pytest.raises(UserError, match="other.JPEG.* not listed in"):
        open_dataset("imagenet", root)


def test_imagenet100_takes_its_classes_from_imagenet(tmp_path):
    assert len(set(IMAGENET100_WNIDS)) == 100 and list(IMAGENET100_WNIDS) == sorted(IMAGENET100_WNIDS)
    root = tree(tmp_path, "train/n00000001/a.JPEG", "val/n00000001/a.JPEG")
    tree(root, *(f"{part}/{wnid}/{wnid}_1.JPEG" for part in ("train", "val") for wnid in IMAGENET100_WNIDS))
    splits = open_dataset("imagenet100", root)
    for split in splits.values():
        assert split.classes == list(IMAGENET100_WNIDS) and split.labels.tolist() == list(range(100))
        assert split.names[3] == f"{IMAGENET100_WNIDS[3]}/{IMAGENET100_WNIDS[3]}_1.JPEG"
    missing = root / "train" / IMAGENET100_WNIDS[5]
    (missing / f"{missing.name}_1.JPEG").unlink()
    missing.rmdir()
    with pytest.raises(UserError, match=f"lacks 1 classes of ImageNet-100, {missing.name}"):
        open_dataset("imagenet100", root)


@pytest.mark.parametrize("inside", [True, False])
def test_tiny_imagenet(tmp_path, inside):
    root = write_tiny_imagenet(tmp_path)
    splits = open_dataset("tiny-imagenet", root if inside else tmp_path)
    assert splits["train"].names == ["n01/images/n01_0.JPEG", "n02/images/n02_0.JPEG"]
    assert splits["train"].load(1) == (root / "train" / splits["train"].names[1]).read_bytes()
    assert splits["val"].names == ["val_1.JPEG", "val_0.JPEG"] and splits["val"].labels.tolist() == [0, 1]
    (root / "val" / "val_annotations.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="not text"):
        open_dataset("tiny-imagenet", tmp_path)
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UserError, match="there is no file .*val_annotations.txt"):
        open_dataset("tiny-imagenet", tmp_path)


# All of them


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_a_wrong_root_says_what_is_missing_and_expected(name, tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as caught:
            open_dataset(name, root)
        text = str(caught.value)
        assert str(root) in text and "\n" not in text
        assert "expects" in text


def test_default_roots(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTINTL_DATA", raising=False)
    assert default_root("cifar10") == Path("data/cifar10") and default_root("imagenet100") == Path("data/imagenet")
    monkeypatch.setenv("FASTINTL_DATA", str(tmp_path))
    assert default_root("imagenet") == tmp_path / "imagenet"
    with pytest.raises(UserError, match=str(tmp_path / "stl10")):
        open_dataset("stl10")
    with pytest.raises(UserError, match="no dataset named imagnet; known: imagenet, "):
        open_dataset("imagnet")


def test_fingerprints_change_with_the_images(tmp_path):
    root = tree(tmp_path, "a/1.jpg", "b/1.jpg")
    first = class_tree(root).fingerprint
    assert class_tree(root).fingerprint == first
    os.utime(root / "b", ns=(1, 1))
    second = class_tree(root).fingerprint
    save(root / "b" / "2.jpg")
    assert len({first, second, class_tree(root).fingerprint}) == 3
