"""The evaluation protocols beside the authors' code, on the same features, batches and starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastintl.config import load
from fastintl.evaluate.features import Features, represent
from fastintl.evaluate.finetune import FineTuneProtocol, FineTuning
from fastintl.evaluate.linear import protocols
from fastintl.evaluate.linear.heads import LinearHeads
from fastintl.evaluate.linear.probes import FrozenProbe
from fastintl.evaluate.linear.training import accuracy_on_features, train_on_features
from fastintl.evaluate.nearest import knn
from fastintl.network.model import build_backbone
from fastintl.weights.backbone import load_backbone
from loaders import Loader
from tools.fidelity.checkouts import RECIPES, Checkouts, Command
from tools.fidelity.images import Part
from tools.fidelity.steps import ALONE
from tools.fidelity.their_process import ask
from tools.fidelity.theirs.evaluation import loaders_of

_SEED, _CLASSES = 0, 10
_BATCH, _TRAIN_IMAGES, _TEST_IMAGES = 128, 256, 250
_LISTING = "scripts/ep100_multi-crop_ema.sh"
_PROGRAM_CLASSES = 100  # of the authors' program for ImageNet-100


def compare_on_features(
    checkouts: Checkouts, train: Part, held_out: Part, run: Path | None
) -> Iterator[dict[str, Any]]:
    """5 nearest neighbours and the linear classifier of the small datasets.

    Args:
        run: of the backbone whose features are compared; None takes an untrained one.

    Yields:
        ``protocol``, ``whose`` code, and the accuracies ``theirs`` and ``ours``.
    """
    torch.manual_seed(_SEED)
    network = load_backbone(run) if run else build_backbone("resnet8", "small").eval()
    bank, queries = (_features(network, part) for part in (train, held_out))
    start = LinearHeads.start(1, _CLASSES, bank.features.shape[1], protocols.SMALL.init, _SEED)
    job = {
        "train": (bank.features, bank.labels),
        "held_out": (queries.features, queries.labels),
        "weight": start.weight[0],
        "bias": start.bias[0],
        "seed": _SEED,
    }
    nearest = knn.accuracy(bank.features, bank.labels, queries.features, queries.labels)
    heads = train_on_features(bank, _CLASSES, protocols.SMALL, _SEED)
    ours = {"5-nn": nearest, **_only(accuracy_on_features(heads, queries))}
    for whose, file, modules in (
        ("intl", "cifar/eval/evaluate.py", {"knn": "eval.evaluate", "linear": "eval.evaluate"}),
        ("cw_rgp", "base/eval/knn.py", {"knn": "eval.knn", "linear": "eval.sgd"}),
    ):
        folder = checkouts.file(whose, file).absolute().parent.parent
        theirs = ask("evaluation", "on_features", {**job, **modules, "folder": str(folder)})
        for name, label in (("5-nn", "5-nn"), ("top1", "linear, small datasets, top-1"), ("top5", "top-5")):
            yield {"protocol": label, "whose": whose, "theirs": theirs[name], "ours": ours[name]}


def compare_on_images(checkouts: Checkouts, train: Part, held_out: Part) -> Iterator[dict[str, Any]]:
    """The linear classifier of ImageNet on a frozen backbone, and fine-tuning: an untrained ResNet-18 on small images.

    Yields:
        As ``compare_on_features``.
    """
    crops = load(RECIPES / "cifar10.yaml").crops
    torch.manual_seed(_SEED)
    backbone = build_backbone("resnet18", "imagenet")
    start = LinearHeads.start(1, _PROGRAM_CLASSES, backbone.feature_dim, "normal", _SEED)
    job = {
        "script": str(checkouts.file("intl", "evaluate.py").absolute()),
        "weight": start.weight[0],
        "bias": start.bias[0],
        "train": str(train.path.absolute()),
        "held_out": str(held_out.path.absolute()),
        "train_ids": _spread(len(train.labels), _TRAIN_IMAGES),
        "held_out_ids": _spread(len(held_out.labels), _TEST_IMAGES),
        "size": crops.sizes[0],
        "mean": crops.mean,
        "std": crops.std,
        "batch_size": _BATCH,
        "seed": _SEED,
    }
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "start.pth.tar"
        state = {f"module.backbone.{name}": value for name, value in backbone.state_dict().items()}
        torch.save({"epoch": 0, "state_dict": state}, weights)
        small = ["--arch", "resnet18", "--dataset", "in100", "--bs", str(_BATCH), "--pretrained", str(weights)]
        for name, pick, ours in (
            ("linear, ImageNet", r"^(?!.*--weights)", _linear),
            ("fine-tuning", "--weights finetune", _fine_tuned),
        ):
            command = Command("intl", _LISTING, "evaluate.py", pick).arguments(checkouts)
            theirs = ask("evaluation", "on_images", {**job, "arguments": [*command, *small, "--train-percent", "100"]})
            found = ours(load_backbone(weights, "resnet18"), *loaders_of(job))
            yield {"protocol": f"{name}, top-1", "whose": "intl", "theirs": theirs["top1"], "ours": found["top1"]}
            yield {"protocol": "top-5", "whose": "intl", "theirs": theirs["top5"], "ours": found["top5"]}


def _linear(backbone: torch.nn.Module, train: Loader, held_out: Loader) -> dict[str, float]:
    protocol = replace(protocols.IMAGENET, batch_size=_BATCH)
    probe = FrozenProbe(backbone, backbone.feature_dim, _PROGRAM_CLASSES, protocol, ALONE, _SEED)
    for epoch in range(protocol.epochs):
        for batch in train:
            probe.train_step(batch, epoch)
    return _only(probe.accuracy(held_out))


def _fine_tuned(backbone: torch.nn.Module, train: Loader, held_out: Loader) -> dict[str, float]:
    protocol = FineTuneProtocol(batch_size=_BATCH)
    training = FineTuning(backbone, _PROGRAM_CLASSES, protocol, ALONE, _SEED)
    training.network.to(memory_format=torch.contiguous_format)  # theirs, so that the convolutions round alike
    for epoch in range(protocol.epochs):
        for batch in train:
            batch.views = [view.contiguous() for view in batch.views]
            training.train_step(batch, epoch)
    return _only(training.accuracy(held_out))


def _only(accuracy: dict[str, list[float]]) -> dict[str, float]:
    """The accuracies of the one classifier that there is."""
    return {name: value for name, (value,) in accuracy.items()}


def _features(network: torch.nn.Module, part: Part) -> Features:
    crops = load(RECIPES / "cifar10.yaml").crops
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (crops.mean, crops.std))
    with torch.inference_mode():
        views = (part.pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        features = represent(network, views)
    return Features(features.clone(), part.labels, torch.arange(len(part.labels)))


def _spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` ids, evenly apart, so that all classes are among them."""
    return np.linspace(0, count, min(count, wanted), endpoint=False).astype(int).tolist()
