"""One view after the other through any backbone, each in its own size, and the embeddings of all of them together.

For networks whose layers we do not know; ResNets run in lockstep (``lockstep.py``). Each view is a batch of its own to
BatchNorm, over the samples of all ranks (``batchnorm.convert_batchnorm``), and the projector is lockstep's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastintl.network.lockstep import Region, project


def represent(backbone: nn.Module, view: Tensor) -> Tensor:
    """The features of a view, (n, 3, s, s) -> (n, C)."""
    return backbone(view)


@dataclass(frozen=True)
class Regions:
    """The parts of a network that run, and are compiled, as one each; ``recompute``: whether a view's forward pass
    keeps the view alone, and runs again in the backward pass with the same random numbers."""

    backbone: Callable[[nn.Module, Tensor], Tensor] = represent
    projector: Region = project
    recompute: bool = False

    def embed(self, encoders: Sequence[nn.Module], views: Sequence[Tensor], views_together: bool) -> list[Tensor]:
        """The embeddings (n, d) of V views, as ``lockstep.embed``."""
        features = [self._features(encoder.backbone, view) for encoder, view in zip(encoders, views, strict=True)]
        return self.projector(encoders, features, views_together)

    def _features(self, backbone: nn.Module, view: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return self.backbone(backbone, view)
        return checkpoint(self.backbone, backbone, view, use_reentrant=False)
