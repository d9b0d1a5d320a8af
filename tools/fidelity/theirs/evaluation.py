"""The authors' evaluation code, on our features and our batches."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loaders import CenterCrop, Loader, make_loader
from loaders.order import permutation
from loaders.recipe import random_crop_and_flip
from tools.fidelity.theirs import programs, stand_ins


def on_features(job: dict[str, Any]) -> dict[str, float]:
    """Nearest neighbours and the linear classifier of the small datasets.

    Args:
        job: ``folder`` of the code; ``knn`` and ``linear``, the modules of ``eval_knn`` and ``eval_sgd``; ``train`` and
            ``held_out``: features (n, d) and labels (n,); ``weight`` and ``bias``, where the classifier begins;
            ``seed`` of the permutations (n,) of its epochs.

    Returns:
        ``5-nn``, ``top1`` and ``top5`` as fractions.
    """
    stand_ins.install()
    sys.path.insert(0, job["folder"])
    data = [*job["train"], *job["held_out"]]
    neighbours = importlib.import_module(job["knn"]).eval_knn(*data, 5)

    def begin(layer: nn.Linear) -> None:
        with torch.no_grad():
            layer.weight.copy_(job["weight"])
            layer.bias.copy_(job["bias"])

    nn.Linear.reset_parameters = begin
    orders = (permutation(len(data[0]), job["seed"], epoch) for epoch in range(10**9))
    stand_ins.give_permutations(map(torch.from_numpy, orders))
    accuracy = importlib.import_module(job["linear"]).eval_sgd(*data)
    return {"5-nn": neighbours, "top1": accuracy[1], "top5": accuracy[5]}


def on_images(job: dict[str, Any]) -> dict[str, float]:
    """Linear classification and fine-tuning, by the program for ImageNet.

    Args:
        job: ``script`` and ``arguments``; ``weight`` and ``bias``, where the classifier begins; and what
            ``loaders_of`` reads.

    Returns:
        ``top1`` and ``top5`` after the last epoch, as fractions.
    """
    logged: list[dict[str, Any]] = []
    stand_ins.install(logged.append)

    def begin(model: nn.Module) -> None:
        with torch.no_grad():
            model.fc.weight.copy_(job["weight"])
            model.fc.bias.copy_(job["bias"])

    stand_ins.Parallel.begin = staticmethod(begin)
    train, held_out = loaders_of(job)
    stand_ins.give_loaders(_Pairs(train), _Pairs(held_out))
    programs.run(programs.load(job["script"]), job["arguments"])
    return {name: float(logged[-1][name]) / 100 for name in ("top1", "top5")}


def loaders_of(job: dict[str, Any]) -> tuple[Loader, Loader]:
    """Random crops of some training images, and some held-out images as they are.

    Args:
        job: ``train`` and ``held_out``, paths; ``train_ids`` and ``held_out_ids``; ``size``, ``mean`` and ``std`` of a
            view; ``batch_size``; ``seed``.
    """
    numbers = {"mean": tuple(job["mean"]), "std": tuple(job["std"])}
    crops = random_crop_and_flip(job["size"], **numbers, interpolation="bilinear")
    shared = {"source": "memory", "seed": job["seed"], "quarantine": Path("quarantine.txt")}
    return (
        make_loader(job["train"], crops, job["batch_size"], samples=job["train_ids"], **shared),
        make_loader(
            job["held_out"], CenterCrop(job["size"], job["size"], **numbers), 250, samples=job["held_out_ids"], **shared
        ),
    )


class _Pairs:
    """A loader as theirs are: pairs of views, in torch's contiguous memory format, and labels."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            yield batch.views[0].contiguous(), batch.labels
