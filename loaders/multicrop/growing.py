"""The engine of crops that grow: in each epoch the one that cuts its sides."""

from __future__ import annotations

from collections.abc import Callable

import torch

from loaders.multicrop.engine import Engine
from loaders.recipe import MultiCrop
from loaders.sources.decoded import DecodedBatch


class GrowingCrops:
    """Cuts the crops of a batch by an engine of its epoch's stage.

    There is one engine at a time, opened when an epoch of another stage comes: so the buffers of smaller crops are
    gone once larger ones are cut.

    Args:
        recipe: the views' numbers, with their growth.
        open_fixed: opens the engine of a recipe that does not grow.
    """

    def __init__(self, recipe: MultiCrop, open_fixed: Callable[[MultiCrop], Engine]) -> None:
        self._recipe, self._open = recipe, open_fixed
        self._fixed = recipe.at(0)
        self._engine = open_fixed(self._fixed)

    def __call__(self, decoded: DecodedBatch, seed: int, epoch: int) -> list[torch.Tensor]:
        """V views (B, 3, s, s) with the sides of the epoch."""
        fixed = self._recipe.at(epoch)
        if fixed != self._fixed:
            self._engine.close()
            self._fixed, self._engine = fixed, self._open(fixed)
        return self._engine(decoded, seed, epoch)

    def close(self) -> None:
        self._engine.close()
