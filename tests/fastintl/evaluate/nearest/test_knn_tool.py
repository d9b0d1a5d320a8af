"""tools/knn.py from images and from stored features, its JSON and its row in results.md."""

import hashlib
import json
import os
import shutil

import pytest
from sklearn.neighbors import KNeighborsClassifier

from fastintl.evaluate.features import load_features
from loaders.beton.convert import convert
from loaders.beton.encoding import Storage
from loaders.datasets.folder import class_tree
from tools import features, knn


@pytest.fixture
def words(finished, images, tmp_path):
    places = ["--train", images / "train", "--val", images / "val", "--features", tmp_path / "cache"]
    reading = ["--device", "cpu", "--source", "folder"]
    return [str(word) for word in (finished / "run", *places, *reading)]


def test_the_accuracy_is_scikit_learns_and_is_written_down(words, finished, tmp_path, capsys):
    out = ["--json", str(tmp_path / "out.json"), "--results", str(tmp_path / "results.md")]
    for _ in range(2):  # the second time from the kept features
        knn.main([*words, "--k", "1,5,20", *out])
    screen = capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    folders = {json.loads((f / "meta.json").read_text())["count"]: f for f in (tmp_path / "cache").iterdir()}
    train, val = load_features(folders[48]), load_features(folders[15])
    for k in (1, 5, 20):
        theirs = KNeighborsClassifier(k, algorithm="brute").fit(train.features, train.labels)
        assert result["metrics"][f"{k}-nn"] == pytest.approx(theirs.score(val.features, val.labels))
        assert f"{k}-nn" in screen
    backbone = max((finished / "run" / "checkpoints").glob("step_*.pt"))
    assert result["backbone"] == str(backbone)
    assert result["sha256"] == hashlib.sha256(backbone.read_bytes()).hexdigest()
    assert result["settings"]["metric"] == "euclidean" and result["versions"]["torch"]
    rows = (tmp_path / "results.md").read_text().splitlines()
    assert len(rows) == 4 and rows[2] == rows[3] and rows[0].count("|") == rows[3].count("|")
    assert result["sha256"][:12] in rows[2] and "5-nn" in rows[2]


def test_a_run_says_where_its_images_are(words, finished, tmp_path, monkeypatch):
    """As ``knn.py runs/demo`` without another word; and the accuracy is the one of the run's own last evaluation."""
    knn.main([*words, "--json", str(tmp_path / "told.json")])
    monkeypatch.chdir(tmp_path)
    knn.main([str(finished / "run"), "--json", "of_the_run.json"])
    told, of_the_run = (json.loads((tmp_path / name).read_text()) for name in ("told.json", "of_the_run.json"))
    assert of_the_run["metrics"] == told["metrics"] and of_the_run["data"] == told["data"]
    rows = map(json.loads, (finished / "run" / "metrics.jsonl").read_text().splitlines())
    assert of_the_run["metrics"]["5-nn"] == [row["knn_top1"] for row in rows if "knn_top1" in row][-1]


def test_without_a_run_both_places_are_asked_for(finished, tmp_path, capsys):
    shutil.copy(finished / "run" / "backbone.pt", tmp_path)
    network = [str(tmp_path / "backbone.pt"), "--arch", "resnet8", "--stem", "small", "--device", "cpu"]
    for more in (network, []):
        with pytest.raises(SystemExit):
            knn.main(more)
        assert capsys.readouterr().err.splitlines()[-1] == "error: no run says where the images are: give --train"


def test_stored_features_stand_for_images(words, images, tmp_path, capsys):
    knn.main([*words, "--vote", "weighted", "--metric", "cosine", "--json", str(tmp_path / "images.json")])
    for split in ("train", "val"):
        features.main([words[0], "--data", str(images / split), "--out", str(tmp_path / split), "--device", "cpu"])
    places = ["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val"), "--device", "cpu"]
    knn.main([*places, "--vote", "weighted", "--metric", "cosine", "--json", str(tmp_path / "features.json")])
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("images", "features")]
    for key in ("metrics", "settings", "sha256"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize(
    "change, says",
    [
        (["--k", "1,x"], "--k 1,x"),
        (["--k", "49"], "k is 49"),
        (["--memory", "0.01"], "memory is 1e+07 bytes"),
        (["--val", "nowhere"], "nowhere"),
        (["--arch", "resnet18"], "holds a network of arch resnet8"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(words, change, says, capsys):
    with pytest.raises(SystemExit):
        knn.main([*words, *change])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and says in error


def test_features_of_two_kinds_are_not_compared(words, images, tmp_path, capsys):
    for split, more in (("train", []), ("val", ["--flip-average"])):
        data = ["--data", str(images / split), "--out", str(tmp_path / split), "--device", "cpu"]
        features.main([words[0], *data, *more])
    with pytest.raises(SystemExit):
        knn.main(["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val"), "--device", "cpu"])
    assert "differ in flip_average" in capsys.readouterr().err


def accuracy_of(words, tmp_path, *more):
    knn.main([*words, "--json", str(tmp_path / "out.json"), *map(str, more)])
    return json.loads((tmp_path / "out.json").read_text())["metrics"]["5-nn"]


def test_images_of_the_same_names_are_not_taken_for_each_other(words, images, tmp_path):
    """As ImageNet-C keeps ImageNet's names: the pictures of the classes are exchanged, their names are not."""
    swapped = tmp_path / "swapped"
    for path in (images / "val").glob("class*/*.jpg"):
        label, number = int(path.parent.name[-1]), int(path.stem)
        other = images / "val" / f"class{(label + 1) % 3}" / f"{(label + 1) % 3 + number - label:02}.jpg"
        target = swapped / path.relative_to(images / "val")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(other.read_bytes())
    clean = accuracy_of(words, tmp_path)
    found = accuracy_of(words, tmp_path, "--val", swapped)
    assert found == accuracy_of(words, tmp_path, "--val", swapped, "--features", tmp_path / "anew") != clean
    assert accuracy_of(words, tmp_path) == clean and len(list((tmp_path / "cache").iterdir())) == 3


def test_a_beton_written_anew_under_its_name_is_extracted_anew(words, images, tmp_path):
    val, found = tmp_path / "val.beton", []
    for storage in (Storage(), Storage(longest_side=6)):
        val.unlink(missing_ok=True)
        convert(class_tree(images / "val"), val, storage)
        found.append(accuracy_of(words, tmp_path, "--val", val))
        assert found[-1] == accuracy_of(words, tmp_path, "--val", val, "--features", tmp_path / f"anew{len(found)}")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_features_that_were_cut_off_are_made_anew(words, tmp_path, capsys):
    before = accuracy_of(words, tmp_path)
    for path in (tmp_path / "cache").glob("*/features.npy"):
        os.truncate(path, 2176)
    capsys.readouterr()
    assert accuracy_of(words, tmp_path) == before
    assert capsys.readouterr().err.count("are made anew: features.npy is missing or cut off") == 2


@pytest.mark.parametrize(
    "change, says",
    [
        (["--k", "0"], "--k 0: a vote needs 1 neighbour or more"),
        (["--k", "5,-1"], "a vote needs 1 neighbour"),
        (["--temperature", "0"], "--temperature: 0.0 is out of range"),
        (["--temperature", "nan"], "--temperature: nan is not a number"),
        (["--size", "-3"], "--size: -3 is out of range"),
        (["--batch-size", "0"], "--batch-size: 0 is out of range"),
        (["--json", "/dev/null/out.json"], "/dev/null/out.json cannot be written"),
        (["--k", "49"], "k is 49"),
        (["--val", "other"], "do not have the same classes: only one of them has alien"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_extracted(words, images, tmp_path, monkeypatch, capsys, change, says):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images / "val", tmp_path / "other")
    (tmp_path / "other" / "class1").rename(tmp_path / "other" / "alien")
    with pytest.raises(SystemExit):
        knn.main([*words, *change])
    assert says in capsys.readouterr().err and not (tmp_path / "cache").exists()


def test_stored_features_of_other_classes_are_refused(words, images, tmp_path, capsys):
    shutil.copytree(images / "val", tmp_path / "other")
    (tmp_path / "other" / "class1").rename(tmp_path / "other" / "alien")
    for name, data in (("train", images / "train"), ("val", tmp_path / "other")):
        features.main([words[0], "--data", str(data), "--out", str(tmp_path / name), "--device", "cpu"])
    with pytest.raises(SystemExit):
        knn.main(["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val"), "--device", "cpu"])
    assert "do not have the same classes" in capsys.readouterr().err
