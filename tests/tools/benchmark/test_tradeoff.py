"""Accuracy against compute, in miniature: what is trained, what is measured, and that nothing is trained twice."""

import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.helpers import warm_python
from tests.helpers.training import ROOT, SMALL, environment, write_images
from tools.benchmark.tradeoff import Setting, Training, differences, summary_of
from tools.benchmark.tradeoff_figure import draw

KEYS = [f"{key}={value}" for key, value in (SMALL | {"train.epochs": 3}).items()]
# Two epochs at constant size take the operations of three that grow.
SETTINGS = ["constant_3", "growing_3_from_0.6_until_2", "constant_2"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


def tradeoff(out: Path, images: Path, *words: object):
    options = ["--constant", 1, "--grow", "0.6,0.7", "--seeds", 1, "--out", out / "runs", "--json", out / "t.json"]
    command = ["tools/bench.py", "tradeoff", "--rcfg", "demo", "--data", images, *options, *KEYS, *words]
    return warm_python.run([sys.executable, *map(str, command)], env=environment(), cwd=ROOT)


@pytest.mark.slow
def test_settings_are_trained_measured_and_drawn_and_none_is_trained_twice(images, tmp_path):
    stopped = tradeoff(tmp_path, images, "--minutes", 1e-6)
    assert stopped.returncode == 0 and "3 of 3 trainings are left: the same command goes on" in stopped.stdout
    assert json.loads((tmp_path / "t.json").read_text())["trainings"] == []

    first = tradeoff(tmp_path, images, "--figure", tmp_path / "t.svg")
    assert first.returncode == 0, first.stderr
    assert [line.split()[1] for line in first.stdout.splitlines() if line.startswith("training ")] == [
        f"{name}_seed0" for name in SETTINGS
    ]
    result = json.loads((tmp_path / "t.json").read_text())
    trainings = {training["setting"]: training for training in result["trainings"]}
    assert list(trainings) == SETTINGS == result["wanted"]
    for training in trainings.values():
        summary = json.loads((tmp_path / "runs" / f"{training['setting']}_seed0" / "summary.json").read_text())
        assert training["knn_top1"] == summary["knn_top1"]["trained"]
        assert training["linear_top1"] == summary["probes"]["linear_top1"]
        assert training["seconds"] == summary["train_seconds"]
    constant, growing, equal = (trainings[name] for name in SETTINGS)
    assert [one["images"] for one in (constant, growing, equal)] == [144, 144, 96]
    assert equal["flops"] == pytest.approx(constant["flops"] * 2 / 3)
    assert equal["flops"] * 0.8 < growing["flops"] < constant["flops"]
    assert "(equal operations)" in first.stdout
    assert "operations, counted" in (tmp_path / "t.svg").read_text()

    again = tradeoff(tmp_path, images, "--seeds", 1, "--figure", tmp_path / "again.svg")
    assert again.returncode == 0 and "training constant" not in again.stdout
    assert (tmp_path / "t.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    assert json.loads((tmp_path / "t.json").read_text())["trainings"] == result["trainings"]
    plot = [sys.executable, "tools/bench.py", "plot", tmp_path / "t.json", "--out", tmp_path / "figures"]
    assert warm_python.run(plot, cwd=ROOT).returncode == 0
    assert (tmp_path / "figures" / "t.svg").read_bytes() == (tmp_path / "t.svg").read_bytes()

    more = tradeoff(tmp_path, images, "--seeds", 2, "--at-once", 3, "--figure", tmp_path / "t.svg")
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("training ") == 3 and "_seed0" not in more.stdout
    trainings = json.loads((tmp_path / "t.json").read_text())["trainings"]
    # What ran beside others has no seconds; what ran alone keeps its own.
    alone = [one for one in trainings if one["seed"] == 0]
    assert alone == result["trainings"] and [one["seconds"] for one in trainings if one["seed"] == 1] == [None] * 3
    seconds = {row["name"]: row["seconds"] for row in json.loads((tmp_path / "t.json").read_text())["settings"]}
    assert seconds == {one["setting"]: {"mean": one["seconds"], "std": None} for one in alone}

    other = tradeoff(tmp_path, images, "optim.lr=0.1")
    assert other.returncode == 2 and "holds a run with another optim.lr: give another --out" in other.stderr


@pytest.mark.slow
def test_first_images_of_each_class_and_a_training_that_fails(images, tmp_path):
    run = tradeoff(tmp_path, images, "--images", 12, "data.threads=-1")
    assert run.returncode == 2 and "data.threads: -1 is out of range" in run.stderr
    run = tradeoff(tmp_path, images, "--images", 12, "model.weights=nowhere.pt")
    assert run.returncode == 2 and "nowhere.pt" in run.stderr and run.stderr.count("error: ") == 1
    assert (tmp_path / "runs" / "train_12.beton").exists()
    run = tradeoff(tmp_path, images, "--images", 13)
    assert run.returncode == 2 and "has no 13 images with as many of each class" in run.stderr
    assert tradeoff(tmp_path, images, "--grow", "0.6").returncode == 2


def test_means_spreads_and_differences_are_over_the_seeds():
    constant, growing = Setting("constant", 8), Setting("growing", 8, (0.5, 6))
    rows = [("constant_8", 0, 0.5), ("constant_8", 1, 0.54), (growing.name, 0, 0.53), (growing.name, 1, 0.55)]
    rows.append(("constant_8", 2, 0.9))  # a seed that the other has not: it is compared with nothing
    found = [Training(name, seed, score, score / 2, 100, 1e9, 7.0) for name, seed, score in rows]
    summary = summary_of([constant, growing, Setting("equal", 6)], found)
    assert [row["name"] for row in summary] == ["constant_8", growing.name]
    assert summary[0]["knn_top1"] == {"mean": pytest.approx(1.94 / 3), "std": statistics.stdev([0.5, 0.54, 0.9])}
    (row,) = differences([constant, growing, Setting("equal", 6)], found)
    assert (row["of"], row["to"], row["seeds"]) == (growing.name, "constant_8", 2)
    assert row["knn_top1"]["mean"] == pytest.approx(0.02) and row["knn_top1"]["standard_error"] == pytest.approx(0.01)
    assert row["linear_top1"]["mean"] == pytest.approx(0.01)
    assert summary_of([growing], found[2:3])[0]["knn_top1"] == {"mean": 0.53, "std": None}


def test_a_cost_that_no_training_has_is_left_out(tmp_path):
    setting = Setting("growing", 8, (0.5, 6))
    found = [Training(setting.name, 0, 0.5, 0.6, 100, 1e9, None)]
    rows = summary_of([setting], found)
    assert rows[0]["seconds"] is None and rows[0]["images"]["mean"] == 100
    draw(rows, [asdict(one) for one in found], tmp_path / "t.svg")
    drawn = (tmp_path / "t.svg").read_text()
    assert "images seen" in drawn and "seconds" not in drawn
