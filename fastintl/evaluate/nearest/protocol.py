"""k-NN accuracy between two sets of stored features, the queries shared by the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastintl.distributed import World
from fastintl.distributed.collectives import gather
from fastintl.evaluate.feature_file import StoredFeatures
from fastintl.evaluate.nearest import knn
from loaders import UserError

# What must be equal in the two sets, or their distances mean nothing.
_OF_THE_BACKBONE = ("sha256", "arch", "stem", "target", "resize", "size", "mean", "std", "flip_average")


def knn_settings(metric: str, vote: str, temperature: float) -> dict[str, Any]:
    """The options of ``knn.predict`` that change its answer; a majority has no temperature."""
    return {"metric": metric, "vote": vote, **({"temperature": temperature} if vote == "weighted" else {})}


def compare(
    train: StoredFeatures, val: StoredFeatures, ks: Sequence[int], world: World, **options
) -> dict[int, float]:
    """Accuracy on ``val`` of the vote among ``train``, by k; the same on every rank.

    Args:
        options: of ``knn.predict``.

    Raises:
        UserError: features of two backbones, or images without labels.
    """
    other = [key for key in _OF_THE_BACKBONE if train.meta.get(key) != val.meta.get(key)]
    if other:
        raise UserError(f"the two sets of features differ in {', '.join(other)}: extract both in the same way")
    for name, data in (("train", train), ("val", val)):
        if (data.labels < 0).any():
            raise UserError(f"the images of {name} ({data.meta['data']}) have no labels, and k-NN needs them")
    mine = slice(world.rank, None, world.world_size)
    predicted = knn.predict(train.features, train.labels, val.features[mine], ks, device=world.device, **options)
    correct = torch.tensor([int((found == val.labels[mine]).sum()) for found in predicted.values()])
    if world.world_size > 1:
        correct = gather(correct.to(world.device)).sum(0).cpu()
    return {k: count / len(val.labels) for k, count in zip(predicted, correct.tolist(), strict=True)}
