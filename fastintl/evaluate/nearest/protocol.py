"""k-NN accuracy between two sets of stored features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastintl.distributed import World
from fastintl.evaluate.features import StoredFeatures
from fastintl.evaluate.nearest import knn
from fastintl.evaluate.results import Result
from loaders import UserError

# What must be equal in the two sets, or their distances mean nothing.
_OF_THE_BACKBONE = ("sha256", "arch", "stem", "target", "resize", "size", "mean", "std", "flip_average")
_SHOWN = ("sha256", "arch", "stem", "target", "resize", "size", "flip_average")


def knn_settings(metric: str, vote: str, temperature: float) -> dict[str, Any]:
    """The arguments of ``knn.predict`` that change its answer; a majority has no temperature."""
    return {"metric": metric, "vote": vote, **({"temperature": temperature} if vote == "weighted" else {})}


def evaluate(
    train: StoredFeatures,
    val: StoredFeatures,
    data: Mapping[str, Path],
    ks: Sequence[int],
    settings: Mapping[str, Any],
    memory: float,
    world: World,
) -> Result:
    """Accuracy on ``val`` of the vote among ``train``, for each k; the same on every rank.

    Args:
        data: paths of the images or their features, for the result.
        settings: as ``knn_settings`` gives them.
        memory: bytes for the search.

    Raises:
        UserError: features of two backbones, or images without labels.
    """
    other = [key for key in _OF_THE_BACKBONE if train.meta.get(key) != val.meta.get(key)]
    if other:
        raise UserError(f"the two sets of features differ in {', '.join(other)}: extract both in the same way")
    for name, stored in (("train", train), ("val", val)):
        if (stored.labels < 0).any():
            raise UserError(f"the images of {name} ({stored.meta['data']}) have no labels, and k-NN needs them")
    columns = train.features, train.labels, val.features, val.labels
    scores = knn.accuracy(*columns, k=ks, memory=memory, device=world.device, world=world, **settings)
    shown = {**settings, **{name: train.meta[name] for name in _SHOWN}}
    return Result("k-NN", data, train.meta["backbone"], shown, {f"{k}-nn": score for k, score in scores.items()})
