"""What the ranks send each other in a training step: computed from the model, and the floor that it sets.

Shapes: V views, N images of the global batch, d channels of the embedding, C channels of a BatchNorm, M machines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fastintl.config import Config
from fastintl.training.build import build_model

GRADIENT_BYTES = {"none": 4, "fp16": 2, "bf16": 2}
_EMBEDDING_BYTES = 2  # under autocast


@dataclass(frozen=True)
class Traffic:
    """Bytes handed to each kind of collective in a step, and the number of SyncBatchNorm all-reduces.

    Attributes:
        gradients: bytes of all gradients, which are all-reduced.
        embeddings: bytes of the global batch's embeddings, (V, N, d), which are all-gathered.
        batchnorm: bytes of all statistics, which are all-reduced: (2, V, C) in float64 forward, in float32 backward.
        all_reduces: SyncBatchNorm all-reduces with all views together: one a layer forward and one backward.
        all_reduces_view_by_view: the same if every view has its own, as torch.nn.SyncBatchNorm does it.
    """

    gradients: int
    embeddings: int
    batchnorm: int
    all_reduces: int
    all_reduces_view_by_view: int

    def seconds(self, machines: int, bandwidth: float) -> dict[str, float]:
        """The least time of each between machines, if within them it is free.

        An all-reduce sends ``2 (M - 1) / M`` of its bytes through each machine's network, an all-gather receives
        ``(M - 1) / M``. With one GPU a "machine" this is the formula within one.

        Args:
            bandwidth: bytes a second of one machine's network, each way.
        """
        share = (machines - 1) / machines / bandwidth
        return {
            "gradients": 2 * share * self.gradients,
            "embeddings": share * self.embeddings,
            "batchnorm": 2 * share * self.batchnorm,
        }


def traffic(config: Config) -> Traffic:
    """The traffic of a recipe, whatever the number of ranks."""
    with torch.device("meta"):
        model = build_model(config.model)
    norms = [module for module in model.encoder.modules() if isinstance(module, _BatchNorm)]
    views = len(config.crops.sizes)
    online = views - 1 if config.model.ema else views
    channels = sum(norm.num_features for norm in norms)
    parameters = sum(p.numel() for p in model.encoder.parameters())
    return Traffic(
        gradients=GRADIENT_BYTES[config.train.compress_gradients] * parameters,
        embeddings=_EMBEDDING_BYTES * views * config.train.batch_size * config.model.projector[-1],
        batchnorm=2 * views * channels * (8 + 4),
        all_reduces=2 * len(norms),
        all_reduces_view_by_view=(views + online) * len(norms),
    )
