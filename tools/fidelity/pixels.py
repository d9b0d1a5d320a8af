"""What the two augmentations' views are compared by, pixel for pixel."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_statistics(views: Tensor) -> dict[str, Tensor]:
    """Of views in 0..1.

    Args:
        views: (n, s, s, 3).

    Returns:
        ``mean`` and ``std`` of each view and channel in grey levels, (n, 3); ``histogram``, how often each grey level
        comes in each channel of all views, (3, 256).
    """
    levels = views * 255
    histogram = torch.stack([channel.round().long().flatten().bincount(minlength=256) for channel in levels.unbind(3)])
    return {"mean": levels.mean((1, 2)), "std": levels.std((1, 2)), "histogram": histogram}
