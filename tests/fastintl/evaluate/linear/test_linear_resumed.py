"""Linear classifiers and fine-tuning in their folder: kills, other settings, other images, another process."""

import json
import shutil
import subprocess
import time

import pytest
import torch

from fastintl.evaluate.epoch_loop import EpochLoop
from fastintl.evaluate.supervised import identity_of, run_folder
from loaders import UserError, make_loader, random_crop_and_flip
from tests.helpers import warm_python
from tests.helpers.probing import ALONE, probe, random_crops, tool
from tests.helpers.training import ROOT, environment, start


def run(command: list[str]) -> subprocess.CompletedProcess:
    return warm_python.run(command, env=environment(), cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [("linear", ("--lr", 0.4, 2.0)), ("finetune", ("--percent", 100))])
def test_killed_it_ends_with_identical_weights(images, probe_weights, tmp_path, name, words):
    words = (*words, "--epochs", 15, "--save-minutes", 1e-6, "--out")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run(tool(name, probe_weights, images, *words, whole, "--json", tmp_path / "whole.json"))
    assert result.returncode == 0 and "top1" in result.stdout, result.stderr
    found = json.loads((tmp_path / "whole.json").read_text())
    assert found["sha256"] and found["settings"]["epochs"] == 15 and found["metrics"]["top5"] == 1
    heads = found["details"].get("heads", ())
    assert len(heads) == (2 if name == "linear" else 0)
    assert not heads or found["metrics"]["top1"] == max(head["top1"] for head in heads)
    process = start(tool(name, probe_weights, images, *words, killed), tmp_path / "output.txt")
    deadline = time.monotonic() + 120
    while not any(killed.glob("step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    reached = int(max(killed.glob("step_*.pt")).stem[5:])
    assert 0 < reached < 45, "the kill came too late"
    assert run(tool(name, probe_weights, images, *words, killed)).returncode == 0
    first, second = (torch.load(max(out.glob("step_*.pt")), weights_only=True) for out in (whole, killed))
    assert first["step"] == second["step"] == 45
    _assert_identical(first["trainee"], second["trainee"])


def _assert_identical(first, second) -> None:
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            _assert_identical(first[key], second[key])
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            _assert_identical(a, b)
    else:
        assert first == second


def test_a_training_of_other_settings_in_the_same_folder_is_refused(images, tmp_path):
    loader = random_crops(images, ALONE)
    EpochLoop(probe(images), loader, 1, ALONE, tmp_path, {"lr": 1, "seed": 0}).fit()
    with pytest.raises(UserError, match="another lr: .*--out"):
        EpochLoop(probe(images), loader, 1, ALONE, tmp_path, {"lr": 2, "seed": 0})


def test_two_commands_in_one_folder_do_not_disturb_each_other(images, tmp_path, monkeypatch):
    monkeypatch.setattr("fastintl.runs.lock._PATIENCE_SECONDS", 0.1)
    first = EpochLoop(probe(images), random_crops(images, ALONE), 1, ALONE, tmp_path)
    (tmp_path / ".step_00000002.pt.writing").touch()
    with pytest.raises(UserError, match="is being trained by another process"):
        EpochLoop(probe(images), random_crops(images, ALONE), 1, ALONE, tmp_path)
    first.close()
    EpochLoop(probe(images), random_crops(images, ALONE), 1, ALONE, tmp_path)
    assert not any(tmp_path.glob("*.writing"))  # what a killed command left


def test_other_images_of_the_same_number_are_another_training(images, tmp_path):
    moved, other = tmp_path / "moved", tmp_path / "other"
    for place in (moved, other):
        shutil.copytree(images / "train", place)
    renamed = next(other.rglob("*.jpg"))
    renamed.rename(renamed.with_name("new.jpg"))
    here, there, changed = (
        identity_of({"lr": 1}, make_loader(path, random_crop_and_flip(20), 20, threads=1))
        for path in (images / "train", moved, other)
    )
    assert here == there != changed and run_folder("linear", here) != run_folder("linear", changed)
    few = (identity_of({"lr": 1}, random_crops(images, ALONE), samples) for samples in ([0, 1], [0, 2]))
    assert next(few) != next(few)
