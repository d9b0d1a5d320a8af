"""The frozen probe and fine-tuning on pictures: what moves, what is counted, ranks, kills, and what is refused."""

import json
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddp import run_ranks
from fastintl.checkpoint import Checkpoints
from fastintl.distributed import World
from fastintl.evaluate import command
from fastintl.evaluate.features import extract
from fastintl.evaluate.finetune import FineTuneProtocol, FineTuning
from fastintl.evaluate.labelled import count_classes
from fastintl.evaluate.linear import FrozenProbe, best, probe_features
from fastintl.evaluate.logistic import logistic_probe
from fastintl.evaluate.protocols import IMAGENET, SMALL
from fastintl.evaluate.resumable import EpochLoop
from fastintl.model import build_backbone
from loaders import CenterCrop, Loader, UserError, make_loader, random_crop_and_flip
from loaders.sources import open_pictures
from training import ROOT, environment

PROTOCOL = replace(IMAGENET, epochs=2, batch_size=20, lr=(0.4, 3.0))  # 48 pictures: two batches an epoch
TUNING = FineTuneProtocol(epochs=2, batch_size=20, lr_backbone=0.02, lr_classifier=0.5)
ALONE = World(0, 1, 0, torch.device("cpu"))


def backbone():
    torch.manual_seed(0)
    network = build_backbone("resnet8", "small", zero_init_residual=False)
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    return network


def random_crops(data: Path, world: World):
    where = {"rank": world.rank, "world_size": world.world_size, "threads": 1}
    return make_loader(data / "train", random_crop_and_flip(20), 20, **where)


def center_crops(data: Path, world: World, split: str = "val"):
    # 15 held-out pictures in batches of 8: two ranks share a last batch of 7 unevenly
    where = {"rank": world.rank, "world_size": world.world_size, "threads": 1}
    return make_loader(data / split, CenterCrop(24, 20), 8, **where)


def probe(data: Path, world: World = ALONE) -> FrozenProbe:
    network = backbone()
    trained = FrozenProbe(network, network.feature_dim, 3, PROTOCOL, world)
    EpochLoop(trained, random_crops(data, world), PROTOCOL.epochs, world).fit()
    return trained


def tune(data: Path, world: World = ALONE, **changes) -> FineTuning:
    protocol = replace(TUNING, **changes)
    tuning = FineTuning(backbone(), 3, protocol, world)
    EpochLoop(tuning, random_crops(data, world), protocol.epochs, world).fit()
    return tuning


def same_state(first, second) -> bool:
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first if not key.startswith("fc."))


@pytest.fixture(scope="module")
def probed(pictures) -> FrozenProbe:
    return probe(pictures)


def test_the_frozen_protocols_move_nothing_of_the_backbone(pictures, probed):
    assert same_state(backbone(), probed.network)
    start = FrozenProbe(backbone(), 128, 3, PROTOCOL, ALONE).training.heads
    assert (probed.training.heads.weight - start.weight).abs().amax((1, 2)).min() > 1e-3
    assert same_state(backbone(), tune(pictures, frozen=True).network)


def test_fine_tuning_moves_all_of_it(pictures):
    before, after = backbone().state_dict(), tune(pictures).network.state_dict()
    assert not any(torch.equal(before[key], after[key]) for key in before if not key.startswith("fc."))


def test_the_frozen_probes_accuracy_is_that_of_its_weights_on_plain_features(pictures, probed):
    plain = extract(probed.network, center_crops(pictures, ALONE), torch.device("cpu"))
    heads, scores = probed.training.heads, probed.accuracy(center_crops(pictures, ALONE))
    for weight, bias, score in zip(heads.weight, heads.bias, scores, strict=True):
        logits = plain.features.double().numpy() @ weight.double().numpy().T + bias.double().numpy()
        assert score.top1 == np.mean(logits.argmax(1) == plain.labels.numpy())
        assert score.top5 == 1.0  # of three classes
    assert scores[best(scores)].top1 == max(score.top1 for score in scores)


def on_a_rank(data: str):
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = World(rank, count, rank, torch.device("cpu"))
    probed, tuned, held_out = probe(Path(data), world), tune(Path(data), world), center_crops(Path(data), world)
    heads = probed.training.heads
    refused = resumed_apart(probed, random_crops(Path(data), world), world)
    return heads.weight, probed.accuracy(held_out), tuned.network.state_dict(), tuned.accuracy(held_out), refused


def resumed_apart(trained: FrozenProbe, loader: Loader, world: World) -> str:
    """What ranks are told whose folders are not the same: only the first one's has a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        if world.is_main:
            Checkpoints(Path(folder)).save({"step": 2}, 2)
        with pytest.raises(UserError) as refused:
            EpochLoop(trained, loader, 2, world, Path(folder))
        return str(refused.value)


def test_two_ranks_end_where_one_does_and_count_each_picture_once(pictures, probed):
    tuned, held_out = tune(pictures), center_crops(pictures, ALONE)
    for weight, scores, state, accuracy, refused in run_ranks(on_a_rank, str(pictures)):
        assert refused.startswith("the ranks do not find the same checkpoint")
        torch.testing.assert_close(weight, probed.training.heads.weight, rtol=1e-3, atol=1e-5)
        assert scores == probed.accuracy(held_out) and accuracy == tuned.accuracy(held_out)
        torch.testing.assert_close(state, tuned.network.state_dict(), rtol=1e-2, atol=1e-4)


def test_a_probe_within_a_training_leaves_no_trace(pictures):
    network = backbone().train()
    before, state = backbone(), torch.get_rng_state()
    loaders = center_crops(pictures, ALONE, "train"), center_crops(pictures, ALONE)
    heads, scores = probe_features(network, *loaders, replace(SMALL, epochs=20), ALONE)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and same_state(before, network)
    assert len(heads) == len(scores) == 1 and 0 <= scores[0].top1 <= 1 == scores[0].top5


@pytest.mark.parametrize("classes", [2, 3])
def test_the_quick_probe_is_logistic_regression(pictures, classes):
    """Against Newton's method in float64 on the same objective."""
    sets = [extract(backbone().eval(), center_crops(pictures, ALONE, s), torch.device("cpu")) for s in ("train", "val")]
    for found in sets:
        keep = found.labels < classes
        found.features, found.labels = found.features[keep, :6], found.labels[keep]
    train, held_out = sets
    mean, std = train.features.double().mean(0), train.features.double().std(0, correction=0)
    x, test = ((f.features.double() - mean) / std for f in sets)
    weight = torch.zeros(classes, 7, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        fit = torch.nn.functional.cross_entropy(x @ weight[:, :6].T + weight[:, 6], train.labels, reduction="sum")
        value = fit + 0.5 * weight[:, :6].square().sum() * (1 if classes > 2 else 2)  # binary: one vector, not two
        value.backward()
        return value

    optimizer.step(loss)
    expected = (test @ weight[:, :6].T + weight[:, 6]).argmax(1) == held_out.labels
    assert logistic_probe(train, held_out, classes)["top1"] == pytest.approx(expected.double().mean().item())


# Kills


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet8.pt"
    torch.save(backbone().state_dict(), path)
    return path


def tool(name: str, weights: Path, data: Path, *words: object) -> list[str]:
    where = ("--train", data / "train", "--val", data / "val", "--arch", "resnet8", "--stem", "small")
    small = ("--size", 20, "--resize", 24, "--batch-size", 16, "--source", "folder", "--threads", 1, "--device", "cpu")
    return [sys.executable, *map(str, (ROOT / "tools" / f"{name}.py", weights, *where, *small, *words))]


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [("linear", ("--lr", 0.4, 2.0)), ("finetune", ("--percent", 100))])
def test_killed_it_ends_with_identical_weights(pictures, weights, tmp_path, name, words):
    words = (*words, "--epochs", 15, "--save-minutes", 1e-6, "--out")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run(tool(name, weights, pictures, *words, whole, "--json", tmp_path / "whole.json"))
    assert result.returncode == 0 and "top1" in result.stdout, result.stderr
    found = json.loads((tmp_path / "whole.json").read_text())
    assert found["sha256"] and found["settings"]["epochs"] == 15 and found["metrics"]["top5"] == 1
    assert len(found["details"].get("heads", ())) == (2 if name == "linear" else 0)
    process = subprocess.Popen(
        tool(name, weights, pictures, *words, killed), env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not any(killed.glob("step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    reached = int(max(killed.glob("step_*.pt")).stem[5:])
    assert 0 < reached < 45, "the kill came too late"
    assert run(tool(name, weights, pictures, *words, killed)).returncode == 0
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


def test_a_training_of_other_settings_in_the_same_folder_is_refused(pictures, tmp_path):
    loader = random_crops(pictures, ALONE)
    EpochLoop(probe(pictures), loader, 1, ALONE, tmp_path, {"lr": 1, "seed": 0}).fit()
    with pytest.raises(UserError, match="another lr: .*--out"):
        EpochLoop(probe(pictures), loader, 1, ALONE, tmp_path, {"lr": 2, "seed": 0})


def test_two_commands_in_one_folder_do_not_disturb_each_other(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("fastintl.run_lock._PATIENCE_SECONDS", 0.1)
    first = EpochLoop(probe(pictures), random_crops(pictures, ALONE), 1, ALONE, tmp_path)
    (tmp_path / ".step_00000002.pt.writing").touch()
    with pytest.raises(UserError, match="is being trained by another process"):
        EpochLoop(probe(pictures), random_crops(pictures, ALONE), 1, ALONE, tmp_path)
    first.lock.close()
    EpochLoop(probe(pictures), random_crops(pictures, ALONE), 1, ALONE, tmp_path)
    assert not any(tmp_path.glob("*.writing"))  # what a killed command left


def test_other_pictures_of_the_same_number_are_another_training(pictures, tmp_path):
    moved, other = tmp_path / "moved", tmp_path / "other"
    for place in (moved, other):
        shutil.copytree(pictures / "train", place)
    renamed = next(other.rglob("*.jpg"))
    renamed.rename(renamed.with_name("new.jpg"))
    here, there, changed = (
        command.identity_of({"lr": 1}, make_loader(path, random_crop_and_flip(20), 20, threads=1))
        for path in (pictures / "train", moved, other)
    )
    assert here == there != changed and command.run_folder("linear", here) != command.run_folder("linear", changed)
    few = (command.identity_of({"lr": 1}, random_crops(pictures, ALONE), samples) for samples in ([0, 1], [0, 2]))
    assert next(few) != next(few)


def test_a_loss_that_is_no_number_stops_the_training(pictures):
    with pytest.raises(UserError, match="lower the learning rate"):
        tune(pictures, lr_backbone=1e12, lr_classifier=1e30)


# Errors


def labelled(labels, classes="") -> SimpleNamespace:
    """The part of a data set that labels are checked by."""
    return SimpleNamespace(labels=np.array(labels, dtype=np.int64), classes=list(classes), path="pictures")


def test_sets_of_other_classes_or_labels_are_refused(pictures):
    train = labelled([0, 1, 2], "abc")
    assert count_classes(train, labelled([0, 2], "abc")) == count_classes(labelled([0, 1, 2]), labelled([0])) == 3
    assert count_classes(*(open_pictures(pictures / split) for split in ("train", "val"))) == 3
    for held_out, words in (
        (labelled([0], "abd"), "same classes: only one of them has c"),
        (labelled([0], "acb"), "order differs"),
        (labelled([0, 3], "abc"), "label 3, but there are only 3 classes"),
        (labelled([0, -1], "abc"), "without a label"),
        (labelled([], "abc"), "nothing to learn from"),
    ):
        with pytest.raises(UserError, match=words):
            count_classes(train, held_out)


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("linear", ("--arch", "resnet18"), "resnet18"),
        ("linear", ("--sweep", "--lr", 1), "--sweep"),
        ("linear", ("--crop-area", 2), "--crop-area"),
        ("finetune", ("--percent", 0), "--percent"),
        ("finetune", ("--percent", 1, "--from-scratch"), "not both"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(
    pictures, weights, name, words, sentence, monkeypatch, capsys, tmp_path
):
    command = tool(name, weights, pictures, *words, "--out", tmp_path)
    monkeypatch.setattr(sys, "argv", command[1:])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(command[1], run_name="__main__")
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and sentence in error
