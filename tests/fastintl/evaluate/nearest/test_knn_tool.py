"""tools/knn.py from images and from stored features, its JSON and its row in results.md."""

import hashlib
import json

import pytest
from sklearn.neighbors import KNeighborsClassifier

from fastintl.evaluate.features import load_features
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
