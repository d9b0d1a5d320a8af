"""``key=value`` words are taken anywhere among the options, by every tool that takes them."""

import json
from pathlib import Path

import pytest
import yaml

from fastintl import config, train
from tools import bench, detect, show_crops
from tools.benchmark import estimate

RCFGS = Path(__file__).resolve().parents[2] / "rcfgs"
EP100 = str(RCFGS / "ep100.yaml")


def test_pretraining(capsys):
    train.main(["train.epochs=3", "--rcfg", EP100, "crops.flip=0", "--print-config", "train.batch_size=8"])
    keys = yaml.safe_load(capsys.readouterr().out)
    assert (keys["train"]["epochs"], keys["train"]["batch_size"], keys["crops"]["flip"]) == (3, 8, 0)


def test_detection(capsys):
    detect.main(["seed=3", "--data", "voc", "optim.steps=7", "--from-scratch", "--print-config", "train.batch_size=8"])
    keys = yaml.safe_load(capsys.readouterr().out)
    assert (keys["seed"], keys["optim"]["steps"], keys["train"]["batch_size"]) == (3, 7, 8)


def test_show_crops(image_beton, capsys):
    words = ["crops.flip=0", "--data", str(image_beton), "crops.size=3", "--samples", "1", "crops.hue=0"]
    with pytest.raises(SystemExit):
        show_crops.main(words)
    assert "unknown key crops.size" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["step", "train", "ranks", "estimate"])
def test_parts_of_the_benchmark(part):
    option = "gpus" if part == "estimate" else "rounds"
    given = bench.parse([part, "train.epochs=3", "--rcfg", EP100, "seed=1", f"--{option}", "2", "train.batch_size=8"])
    assert given.overrides == ["train.epochs=3", "seed=1", "train.batch_size=8"]
    assert getattr(given, option) == 2 and config.load(given.rcfg, given.overrides).train.batch_size == 8


def test_an_estimate_tells_files_and_keys_apart(tmp_path, capsys):
    share = config.to_yaml(config.load(EP100, ["train.batch_size=16"]))
    result = {"benchmark": "step", "surroundings": {"gpu": "Some GPU"}, "config": share}
    result["contenders"] = [{"name": estimate._OUR_STEP, "images_per_second": 500.0}]
    step = tmp_path / "step=16.json"
    step.write_text(json.dumps(result))
    bench.main(
        ["estimate", "--rcfg", EP100, "--step", str(step), "train.batch_size=32", "--gpus", "2", "train.epochs=3"]
    )
    assert "ep100: 3 epochs" in capsys.readouterr().out
