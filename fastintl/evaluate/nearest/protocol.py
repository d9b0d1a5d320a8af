"""k-NN accuracy between two sets of stored features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastintl.distributed import World
from fastintl.evaluate.features import StoredFeatures, require_comparable
from fastintl.evaluate.labels import LABELLED, require_same_classes
from fastintl.evaluate.nearest import knn
from fastintl.evaluate.results import Result
from loaders import UserError
from loaders.sources import Images

_SHOWN = ("sha256", "arch", "stem", "target", "resize", "size", "flip_average")


def knn_settings(metric: str, vote: str, temperature: float) -> dict[str, Any]:
    """The arguments of ``knn.predict`` that change its answer; a majority has no temperature."""
    return {"metric": metric, "vote": vote, **({"temperature": temperature} if vote == "weighted" else {})}


def require_votes(train: Images, val: Images, ks: Sequence[int], memory: float) -> None:
    """Refuses, before their features are extracted, images that ``evaluate`` would refuse afterwards.

    Raises:
        UserError: images without labels or of other classes, fewer of them than shall vote, or too little memory.
    """
    knn.require_memory(memory)
    require_same_classes(train, val)
    for name, images in (("train", train), ("val", val)):
        _require_labels(name, images.labels, images.path)
    if max(ks) > len(train):
        raise knn.out_of_range(max(ks), len(train))


def _require_labels(name: str, labels: np.ndarray, where: object) -> None:
    if (labels < 0).any():
        raise UserError(f"the images of {name} ({where}) have no labels, and k-NN needs them: {LABELLED}")


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
    require_comparable(train, val)
    for name, stored in (("train", train), ("val", val)):
        _require_labels(name, stored.labels, stored.meta["data"])
    columns = train.features, train.labels, val.features, val.labels
    scores = knn.accuracy(*columns, k=ks, memory=memory, device=world.device, world=world, **settings)
    shown = {**settings, **{name: train.meta[name] for name in _SHOWN}}
    return Result("k-NN", data, train.meta["backbone"], shown, {f"{k}-nn": score for k, score in scores.items()})
