"""Linear classification on a frozen backbone: the heads of a protocol, on random crops or on features made once.

Shapes: H heads, B samples, d channels of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastintl.distributed import World
from fastintl.evaluate.accuracy import accuracy_on_images, best
from fastintl.evaluate.backbone import EvaluatedBackbone, Reading
from fastintl.evaluate.features import Features, cached_features, represent, require_comparable
from fastintl.evaluate.labels import classes_of, count_classes
from fastintl.evaluate.linear.logistic import logistic_probe, require_scikit_learn
from fastintl.evaluate.linear.protocols import HeadProtocol
from fastintl.evaluate.linear.training import HeadTraining, accuracy_on_features, train_on_features
from fastintl.evaluate.results import Result, print_rows
from fastintl.evaluate.supervised import SupervisedTraining, settings_of
from fastintl.network.precision import autocast
from loaders import Batch, Loader
from loaders.progress import Progress
from loaders.sources import open_images


class FrozenProbe(HeadTraining):
    """The ImageNet protocols: heads on features of random crops, behind a backbone in evaluation mode.

    Nothing of the backbone changes. All heads share its one pass over the images.

    Args:
        network: (B, 3, s, s) -> (B, d); put into evaluation mode and channels_last, on the device of ``world``.
        dim: d.
        dtype: the number format of the forward pass; the heads are float32.
    """

    def __init__(
        self,
        network: nn.Module,
        dim: int,
        classes: int,
        protocol: HeadProtocol,
        world: World,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(protocol, classes, dim, seed, world.device, across_ranks=world.world_size > 1)
        self.network = network.to(world.device, memory_format=torch.channels_last).eval()
        self.world, self.dtype = world, dtype

    def train_step(self, batch: Batch, epoch: int) -> Tensor:
        """One update of every head; their mean losses (H,) on this rank's share."""
        views, labels = (x.to(self.world.device, non_blocking=True) for x in (batch.views[0], batch.labels))
        ranks, loss_H = self.world.world_size, torch.zeros(len(self.heads), device=self.world.device)
        self.step(self._features(views), labels, epoch, len(labels) * ranks, loss_H)
        return ranks * loss_H

    def accuracy(self, held_out: Loader) -> dict[str, list[float]]:
        """``{"top1": [one a head], "top5": …}`` on a centre-crop loader; the same on every rank."""
        heads = self.heads
        return accuracy_on_images(lambda x: heads.scores(self._features(x)), len(heads), held_out, self.world)

    @torch.no_grad()
    def _features(self, views: Tensor) -> Tensor:
        with autocast(self.world.device, self.dtype):
            return represent(self.network, views)


# The evaluations


def probe_on_crops(
    backbone: EvaluatedBackbone, name: str, protocol: HeadProtocol, training: SupervisedTraining, world: World
) -> Result:
    """Trains the heads of an ImageNet protocol on random crops, with checkpoints, and tests them.

    Args:
        name: what the results call the protocol.
    """

    def build(classes: int, dtype: torch.dtype) -> FrozenProbe:
        network = backbone.network
        return FrozenProbe(network, network.feature_dim, classes, protocol, world, training.seed, dtype)

    task, stated = f"linear, {name}", {"protocol": name}
    _, accuracy, _, result = training.run(task, "linear", backbone, protocol, stated, build, world)
    return replace(result, details=_details(protocol, accuracy))


def probe_on_features(
    backbone: EvaluatedBackbone | None,
    name: str,
    protocol: HeadProtocol | None,
    data: Mapping[str, Path],
    cache: Path,
    reading: Reading,
    seed: int,
    world: World,
) -> Result:
    """Trains on features made once without augmentation; every rank on its own, to the same result.

    Args:
        backbone: None: ``data`` are folders of features, which tools/features.py wrote.
        name: what the results call the protocol.
        protocol: None: logistic regression by L-BFGS.
        data: images or folders of features, "train" and "val".
        cache: folder that keeps the features.
        reading: how the images are read.

    Returns:
        The result; of logistic regression its accuracy on the first rank only.
    """
    if protocol is None:
        require_scikit_learn()
    classes = count_classes(*map(open_images, data.values())) if backbone else None
    stored = [cached_features(backbone, path, cache, world, reading) for path in data.values()]
    require_comparable(*stored)
    bank, queries = map(Features.of, stored)
    classes = classes or classes_of(bank.labels, str(data["train"]))
    settings = settings_of({"protocol": name, **(asdict(protocol) if protocol else {})}, backbone, seed)
    result = Result(f"linear, {name}", data, backbone and backbone.path, settings, {})
    if protocol is None:
        return replace(result, metrics=logistic_probe(bank, queries, classes) if world.is_main else {})
    with Progress("training", "epochs", protocol.epochs) if world.is_main else nullcontext() as progress:
        on_epoch = (lambda: progress.advance(1)) if progress else (lambda: None)
        heads = train_on_features(bank, classes, protocol, seed, world.device, on_epoch)
    accuracy = accuracy_on_features(heads, queries)
    return replace(result, metrics=best(accuracy), details=_details(protocol, accuracy))


def _details(protocol: HeadProtocol, accuracy: Mapping[str, list[float]]) -> dict[str, Any]:
    """The accuracy of every head, and the settings of the best."""
    columns = zip(protocol.grid, accuracy["top1"], accuracy["top5"], strict=True)
    heads = [{"lr": lr, "weight_decay": decay, "top1": top1, "top5": top5} for (lr, decay), top1, top5 in columns]
    winner = max(heads, key=lambda head: head["top1"])  # the first of equals
    return {"heads": heads, "lr": winner["lr"], "weight_decay": winner["weight_decay"]}


def print_heads(result: Result) -> None:
    """Prints the score of every head, the best one's in bold."""

    def row(lr: float, weight_decay: float, top1: float, top5: float) -> tuple[str, ...]:
        return f"{lr:g}", f"{weight_decay:g}", f"{top1:.2%}", f"{top5:.2%}"

    winner = row(result.details["lr"], result.details["weight_decay"], **result.metrics)
    rows = [row(**head) for head in result.details["heads"]]
    print_rows(("learning rate", "weight decay", "top-1", "top-5"), rows, bold=winner)
