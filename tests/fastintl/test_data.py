"""Where a run finds its images, and training straight from public files."""

import json
from pathlib import Path

import pytest

from fastintl import config
from fastintl.data import find, public_files
from loaders.datasets.imagenet import IMAGENET100_WNIDS
from loaders.errors import UserError
from tests.helpers import training
from tests.helpers.images import write_image
from tests.helpers.public_layouts import write_cifar10, write_stl10, write_tiny_imagenet


def places(root: Path, name: str, **words: str) -> list[str | None]:
    """The places of train, train_labelled and val, relative to ``root``."""
    made = config.load(None, [f"data.root={root}", f"data.name={name}", *(f"data.{k}={v}" for k, v in words.items())])
    found = [find(made, split) for split in ("train", "train_labelled", "val")]
    return [place and str(place).replace(f"{root}", "ROOT") for place in found]


def test_public_files_are_found_by_the_name_of_the_data_set(tmp_path):
    write_cifar10(tmp_path / "c")
    assert places(tmp_path / "c", "cifar10") == ["cifar10:train@ROOT", None, "cifar10:val@ROOT"]
    write_stl10(tmp_path / "s")
    assert places(tmp_path / "s", "stl10") == ["stl10:train@ROOT", "stl10:train_labelled@ROOT", "stl10:val@ROOT"]
    tiny = write_tiny_imagenet(tmp_path / "t")
    for root in (tiny, tmp_path / "t"):
        assert places(root, "tiny-imagenet") == ["tiny-imagenet:train@ROOT", None, "tiny-imagenet:val@ROOT"]
    for wnid in IMAGENET100_WNIDS:
        (tmp_path / "i" / "train" / wnid).mkdir(parents=True)
    assert places(tmp_path / "i", "imagenet100") == ["imagenet100:train@ROOT", None, "imagenet100:val@ROOT"]


def test_class_folders_and_written_files_come_before_public_ones(tmp_path):
    for folder in ("train/a", "val/a"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("imagenet", "cifar10", "mine"):  # CIFAR-10 as folders of JPEGs
        assert places(tmp_path, name) == ["ROOT/train", None, "ROOT/val"]
    (tmp_path / "val" / "a").rmdir()  # ImageNet's flat val/, whose classes a table tells
    assert places(tmp_path, "imagenet") == ["ROOT/train", None, "imagenet:val@ROOT"]
    for split in ("train", "train_labelled"):
        (tmp_path / f"stl10_{split}.beton").touch()
    assert places(tmp_path, "stl10") == ["ROOT/stl10_train.beton", "ROOT/stl10_train_labelled.beton", "ROOT/val"]
    given = {"train": f"{tmp_path}/stl10_train.beton"}
    assert places(tmp_path, "stl10", **given) == ["ROOT/stl10_train.beton", None, "ROOT/val"]


def test_a_word_is_a_place_of_its_own(tmp_path):
    made = config.load(None, ["data.train=cifar10:train@/x", "data.val=stl10:val@y"])
    assert str(find(made, "train")) == "cifar10:train@/x" and str(find(made, "val")) == "stl10:val@y"
    assert public_files(made) == [("cifar10", Path("/x")), ("stl10", Path("y"))]
    assert public_files(config.load(None, ["data.train=cifar10:train@/x", "data.verify=false"])) == []
    with pytest.raises(UserError, match="data.train=cifar11:train@/x: no such file or folder"):
        find(config.load(None, ["data.train=cifar11:train@/x"]), "train")


def test_a_root_of_class_folders_is_told_where_it_belongs(tmp_path):
    write_image(tmp_path / "class" / "0.jpg", 8, 8, 0)
    with pytest.raises(UserError, match=f"data.train={tmp_path} if its folders are classes"):
        places(tmp_path, "imagenet")
    assert places(tmp_path, "imagenet", train=str(tmp_path)) == ["ROOT", None, None]


def test_stl10_trains_on_all_and_is_judged_by_what_has_labels(tmp_path):
    write_stl10(tmp_path / "stl", train=20, unlabelled=5, held_out=10)
    changes = {"data__name": "stl10", "data__source": "memory", "data__verify": "false", "train__epochs": 1}
    result = training.train(tmp_path, tmp_path / "stl", **changes)
    assert result.returncode == 0, result.stderr
    assert f"25 in stl10:train@{tmp_path / 'stl'}, decoded by memory" in result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("knn_top1" in row for row in rows)
    assert rows[-1]["step"] == 3  # 25 images, 8 a step


def test_damaged_public_files_end_all_ranks_with_one_sentence(tmp_path):
    write_cifar10(tmp_path / "cifar", per_batch=10)
    result = training.train(tmp_path, tmp_path / "cifar", 2, data__name="cifar10")
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode != 0 and "data_batch_1 is not the published file" in sentence
    assert sentence.endswith("download it again, or set data.verify=false to train on it as it is")
