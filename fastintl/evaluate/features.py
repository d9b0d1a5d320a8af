"""Features of a whole data set: every sample once, at any world size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from loaders import Loader


@dataclass
class Features:
    """Features (n, d) float32 with labels and sample ids (n,) int64, on the CPU, ordered by id."""

    features: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor


@torch.inference_mode()
def extract(network: nn.Module, loader: Loader, device: torch.device) -> Features:
    """Runs a network in evaluation mode over a centre-crop loader.

    The network's mode is restored and nothing of its state changes.

    Args:
        network: maps views (b, 3, s, s) to features (b, …), which are flattened.
        loader: this rank's share of the data set.

    Returns:
        The features of all ranks, on every rank.
    """
    was_training = network.training
    network.eval()
    parts = []
    loader.set_position(0, 0)
    for batch in loader:
        features = network(batch.views[0].to(device, non_blocking=True)).flatten(1)
        parts.append((features.float().cpu(), batch.labels, batch.ids))
    network.train(was_training)
    # A rank may have no share of a small data set at all.
    columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else None
    features, labels, ids = _gather(columns)
    order = torch.argsort(ids)
    return Features(features[order], labels[order], ids[order])


def _gather(columns: list[torch.Tensor] | None) -> list[torch.Tensor]:
    if not dist.is_initialized():
        return columns
    # Pickled through the CPU: shares differ in length, and this is no hot path.
    shares: list[list[torch.Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, columns)
    return [torch.cat(column) for column in zip(*filter(None, shares), strict=True)]
