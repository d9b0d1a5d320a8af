"""The frozen probe and fine-tuning on images: what moves, what is counted, ranks, and what is refused."""

import runpy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastintl.distributed import World
from fastintl.evaluate.epoch_loop import EpochLoop
from fastintl.evaluate.features import extract
from fastintl.evaluate.labels import count_classes
from fastintl.evaluate.linear.logistic import logistic_probe
from fastintl.evaluate.linear.probes import FrozenProbe
from fastintl.evaluate.linear.protocols import SMALL
from fastintl.evaluate.linear.training import accuracy_on_features, train_on_features
from fastintl.runs.checkpoint import Checkpoints
from loaders import Loader, UserError
from loaders.sources import open_images
from tests.helpers.ddp import run_ranks
from tests.helpers.probing import ALONE, PROTOCOL, backbone, center_crops, probe, random_crops, tool, tune


def same_state(first, second) -> bool:
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first if not key.startswith("fc."))


@pytest.fixture(scope="module")
def probed(images) -> FrozenProbe:
    return probe(images)


def test_the_frozen_protocols_move_nothing_of_the_backbone(images, probed):
    assert same_state(backbone(), probed.network)
    start = FrozenProbe(backbone(), 128, 3, PROTOCOL, ALONE).heads
    assert (probed.heads.weight - start.weight).abs().amax((1, 2)).min() > 1e-3
    assert same_state(backbone(), tune(images, frozen=True).network)


def test_fine_tuning_moves_all_of_it(images):
    before, after = backbone().state_dict(), tune(images).network.state_dict()
    assert not any(torch.equal(before[key], after[key]) for key in before if not key.startswith("fc."))


def test_the_frozen_probes_accuracy_is_that_of_its_weights_on_plain_features(images, probed):
    plain = extract(probed.network, center_crops(images, ALONE), torch.device("cpu"))
    heads, accuracy = probed.heads, probed.accuracy(center_crops(images, ALONE))
    for weight, bias, top1, top5 in zip(heads.weight, heads.bias, accuracy["top1"], accuracy["top5"], strict=True):
        logits = plain.features.double().numpy() @ weight.double().numpy().T + bias.double().numpy()
        assert top1 == np.mean(logits.argmax(1) == plain.labels.numpy())
        assert top5 == 1.0  # of three classes


def on_a_rank(data: str):
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = World(rank, count, rank, torch.device("cpu"))
    probed, tuned, held_out = probe(Path(data), world), tune(Path(data), world), center_crops(Path(data), world)
    heads = probed.heads
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


def test_two_ranks_end_where_one_does_and_count_each_image_once(images, probed):
    tuned, held_out = tune(images), center_crops(images, ALONE)
    for weight, scores, state, accuracy, refused in run_ranks(on_a_rank, str(images)):
        assert refused.startswith("the ranks do not find the same checkpoint")
        torch.testing.assert_close(weight, probed.heads.weight, rtol=1e-3, atol=1e-5)
        assert scores == probed.accuracy(held_out) and accuracy == tuned.accuracy(held_out)
        torch.testing.assert_close(state, tuned.network.state_dict(), rtol=1e-2, atol=1e-4)


def test_a_probe_within_a_training_leaves_no_trace(images):
    network = backbone().train()
    before, state = backbone(), torch.get_rng_state()
    loaders = center_crops(images, ALONE, "train"), center_crops(images, ALONE)
    train, held_out = (extract(network, loader, torch.device("cpu")) for loader in loaders)
    heads = train_on_features(train, 3, replace(SMALL, epochs=20))
    accuracy = accuracy_on_features(heads, held_out)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and same_state(before, network)
    assert len(heads) == len(accuracy["top1"]) == 1 and 0 <= accuracy["top1"][0] <= 1 == accuracy["top5"][0]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_quick_probe_is_logistic_regression(images, classes):
    """Against Newton's method in float64 on the same objective."""
    sets = [extract(backbone().eval(), center_crops(images, ALONE, s), torch.device("cpu")) for s in ("train", "val")]
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


def test_a_loss_that_is_no_number_stops_the_training(images):
    with pytest.raises(UserError, match="lower the learning rate"):
        tune(images, lr_backbone=1e12, lr_classifier=1e30)


# Errors


def labelled(labels, classes="") -> SimpleNamespace:
    """The part of a dataset that labels are checked by."""
    return SimpleNamespace(labels=np.array(labels, dtype=np.int64), classes=list(classes), path="images")


def test_sets_of_other_classes_or_labels_are_refused(images):
    train = labelled([0, 1, 2], "abc")
    assert count_classes(train, labelled([0, 2], "abc")) == count_classes(labelled([0, 1, 2]), labelled([0])) == 3
    assert count_classes(*(open_images(images / split) for split in ("train", "val"))) == 3
    for held_out, words in (
        (labelled([0], "abd"), "same classes: only one of them has c"),
        (labelled([0], "acb"), "order differs"),
        (labelled([0, 3], "abc"), "label 3, but there are only 3 classes"),
        (labelled([0, -1], "abc"), "without a label"),
        (labelled([], "abc"), "nothing to learn from"),
    ):
        with pytest.raises(UserError, match=words):
            count_classes(train, held_out)
    with pytest.raises(UserError, match="the label 5,000,000; classes are counted from 0 on"):
        count_classes(labelled([0, 5_000_000]), labelled([0]))


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
    images, probe_weights, name, words, sentence, monkeypatch, capsys, tmp_path
):
    command = tool(name, probe_weights, images, *words, "--out", tmp_path)
    monkeypatch.setattr(sys, "argv", command[1:])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(command[1], run_name="__main__")
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and sentence in error
