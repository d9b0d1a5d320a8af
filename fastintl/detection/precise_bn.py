"""BatchNorm's statistics as a plain average over many batches (Wu and Johnson, arXiv 2105.07576, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fastintl.detection.training_step import DetectionStep


@torch.no_grad()
def average_statistics(train_step: DetectionStep, batches: Iterable, count: int, first_step: int) -> None:
    """Replaces the running statistics, which follow the last dozen of batches, by those of ``count`` batches.

    Args:
        batches: of training, at least so many.
        first_step: what the random choices in the detector are drawn from, as in a training step.
    """
    norms = [module for module in train_step.network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for seen, batch in enumerate(islice(batches, count)):
        for norm in norms:
            norm.momentum = 1 / (seen + 1)  # a moving average of this weight is the plain one
        train_step.losses(batch, first_step + seen)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
