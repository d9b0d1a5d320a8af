"""Features of a whole dataset: every sample once, at any world size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from loaders import Loader

# What a network makes of so many images stays in a CPU's cache from layer to layer: ResNet-8 at 64 px takes 256
# images in eight parts in 0.53 of the time that it takes them at once.
_CPU_IMAGES = 32


@dataclass(frozen=True)
class StoredFeatures:
    """A finished folder: features (n, d), labels and ids (n,), mapped from their files; ``meta`` as it was written."""

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    meta: dict[str, Any]


@dataclass
class Features:
    """Features (n, d) float32 with labels and sample ids (n,) int64, on the CPU, ordered by id."""

    features: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def of(cls, stored: StoredFeatures) -> Features:
        """Those of a folder, read into memory."""
        return cls(*(torch.from_numpy(np.array(column)) for column in (stored.features, stored.labels, stored.ids)))


def extract(network: nn.Module, loader: Loader, device: torch.device) -> Features:
    """Runs a network in evaluation mode over a centre-crop loader.

    The network's mode is restored and nothing of its state changes.

    Args:
        network: maps views (b, 3, s, s) to features (b, …), which are flattened.
        loader: this rank's share of the dataset.

    Returns:
        The features of all ranks, on every rank.
    """
    was_training = network.training
    network.eval()
    parts = list(feature_batches(network, loader, device))
    network.train(was_training)
    # A rank may have no share of a small dataset at all.
    columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else None
    features, labels, ids = _gather(columns)
    order = torch.argsort(ids)
    return Features(features[order], labels[order], ids[order])


@torch.inference_mode()
def feature_batches(
    network: nn.Module, loader: Loader, device: torch.device, flip_average: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Features (b, d) float32, labels and ids (b,) of the batches of a centre-crop loader, on the CPU.

    Args:
        network: in evaluation mode.
        flip_average: take the mean of the features of each view and of its mirror image.
    """
    loader.set_position(0, 0)
    for batch in loader:
        views = batch.views[0].to(device, non_blocking=True)
        features = represent(network, views)
        if flip_average:
            features = (features + represent(network, views.flip(3))) / 2
        yield features.cpu(), batch.labels, batch.ids


def represent(network: nn.Module, views: torch.Tensor) -> torch.Tensor:
    """A network's outputs for views (b, 3, s, s), flattened: (b, d) float32.

    In evaluation mode only, where an image's features do not depend on the others: a CPU takes a few at a time.
    """
    parts = views.split(_CPU_IMAGES) if views.device.type == "cpu" else [views]
    return torch.cat([network(part).flatten(1).float() for part in parts])


def _gather(columns: list[torch.Tensor] | None) -> list[torch.Tensor]:
    if not dist.is_initialized():
        return columns
    # Pickled through the CPU: shares differ in length, and this is no hot path.
    shares: list[list[torch.Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, columns)
    return [torch.cat(column) for column in zip(*filter(None, shares), strict=True)]
