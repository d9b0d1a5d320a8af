"""The demo's network with a frozen probe or under fine-tuning, and the command lines of their tools, for tests."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from fastintl.distributed import World
from fastintl.evaluate.epoch_loop import EpochLoop
from fastintl.evaluate.finetune import FineTuneProtocol, FineTuning
from fastintl.evaluate.linear.probes import FrozenProbe
from fastintl.evaluate.linear.protocols import IMAGENET
from fastintl.network.model import build_backbone
from loaders import CenterCrop, make_loader, random_crop_and_flip
from tests.helpers.training import ROOT

PROTOCOL = replace(IMAGENET, epochs=2, batch_size=20, lr=(0.4, 3.0))  # 48 images: two batches an epoch
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
    # 15 held-out images in batches of 8: two ranks share a last batch of 7 unevenly
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


def tool(name: str, weights: Path, data: Path, *words: object) -> list[str]:
    where = ("--train", data / "train", "--val", data / "val", "--arch", "resnet8", "--stem", "small")
    small = ("--size", 20, "--resize", 24, "--batch-size", 16, "--source", "folder", "--threads", 1, "--device", "cpu")
    return [sys.executable, *map(str, (ROOT / "tools" / f"{name}.py", weights, *where, *small, *words))]
