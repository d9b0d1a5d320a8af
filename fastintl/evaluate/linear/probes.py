"""Linear classification on a frozen backbone: the heads of a protocol, on random crops or on features made once.

Shapes: H heads, B samples, d channels of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastintl.distributed import World
from fastintl.evaluate.accuracy import Accuracy
from fastintl.evaluate.features import Features, extract, represent
from fastintl.evaluate.labels import count_classes
from fastintl.evaluate.linear.heads import LinearHeads
from fastintl.evaluate.linear.protocols import HeadProtocol
from fastintl.evaluate.linear.training import HeadTraining, accuracy_on_features, train_on_features
from loaders import Batch, Loader


@dataclass(frozen=True)
class HeadScore:
    """Held-out accuracy of one head, fractions."""

    lr: float
    weight_decay: float
    top1: float
    top5: float


def head_scores(protocol: HeadProtocol, accuracy: Mapping[str, list[float]]) -> list[HeadScore]:
    """The scores in the order of ``protocol.grid``."""
    columns = zip(protocol.grid, accuracy["top1"], accuracy["top5"], strict=True)
    return [HeadScore(*settings, top1, top5) for settings, top1, top5 in columns]


def best(scores: list[HeadScore]) -> int:
    """Index of the head with the highest top-1, the first of equals."""
    return max(range(len(scores)), key=lambda i: (scores[i].top1, -i))


def probe_features(
    network: nn.Module,
    train: Loader,
    held_out: Loader,
    protocol: HeadProtocol,
    world: World,
    seed: int = 0,
) -> tuple[LinearHeads, list[HeadScore]]:
    """The small-data protocol: features once, without augmentation, then heads on them.

    May be called in the middle of a training: the network's mode, weights and statistics and all global random
    states stay as they are. Every rank must call it; all get the same result.

    Args:
        network: (B, 3, s, s) -> (B, d).
        train, held_out: centre-crop loaders of this rank's share.

    Raises:
        UserError: labels that are no classes, or features that are no numbers.
    """
    classes = count_classes(train.images, held_out.images)
    bank, queries = (extract(network, loader, world.device) for loader in (train, held_out))
    return fit_heads(bank, queries, classes, protocol, seed, world.device)


def fit_heads(
    bank: Features,
    queries: Features,
    classes: int,
    protocol: HeadProtocol,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[], None] = lambda: None,
) -> tuple[LinearHeads, list[HeadScore]]:
    """Trains the heads of a protocol on features in memory and tests them on others; see ``train_on_features``."""
    heads = train_on_features(bank, classes, protocol, seed, device, on_epoch)
    return heads, head_scores(protocol, accuracy_on_features(heads, queries))


class FrozenProbe:
    """The ImageNet protocols: heads on features of random crops, behind a backbone in evaluation mode.

    Nothing of the backbone changes. All heads share its one pass over the images.

    Args:
        network: (B, 3, s, s) -> (B, d); put into evaluation mode and channels_last, on the device of ``world``.
        dim: d.
        dtype: of the forward pass; the heads are float32.
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
        self.network = network.to(world.device, memory_format=torch.channels_last).eval()
        self.world, self.dtype = world, dtype
        self.training = HeadTraining(protocol, classes, dim, seed, world.device, across_ranks=world.world_size > 1)

    def train_step(self, batch: Batch, epoch: int) -> Tensor:
        """One update of every head; their mean losses (H,) on this rank's share."""
        labels, ranks = batch.labels.to(self.world.device, non_blocking=True), self.world.world_size
        return ranks * self.training.step(self._features(batch), labels, epoch, len(labels) * ranks)

    def accuracy(self, held_out: Loader) -> list[HeadScore]:
        """Of every head on a centre-crop loader; the same on every rank."""
        heads = self.training.heads
        counted = Accuracy(len(heads), self.world.device, across_ranks=self.world.world_size > 1)
        held_out.set_position(0, 0)
        for batch in held_out:
            counted.add(heads.scores(self._features(batch)), batch.labels.to(self.world.device))
        return head_scores(self.training.protocol, counted.top())

    def state_dict(self) -> dict[str, Any]:
        return self.training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.training.load_state_dict(state)

    @torch.no_grad()
    def _features(self, batch: Batch) -> Tensor:
        views = batch.views[0].to(self.world.device, non_blocking=True)
        with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return represent(self.network, views)
