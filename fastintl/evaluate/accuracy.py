"""Top-k accuracy: counted, so that batches and ranks add up to each sample once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Accuracy:
    """Counts, for H classifiers at once, the samples whose label is among the k highest scores.

    Of equal scores the smaller class is the higher; a score that is not a number is never right.

    Args:
        heads: classifiers.
        ks: the k's; one above the number of classes counts every sample.
        across_ranks: whether the ranks count shares of the samples, to be added up; every rank must then ask.
    """

    def __init__(
        self, heads: int, device: torch.device | str = "cpu", ks: Sequence[int] = (1, 5), across_ranks: bool = False
    ) -> None:
        self.ks, self.across_ranks = tuple(ks), across_ranks
        self._correct = torch.zeros(len(self.ks), heads, dtype=torch.int64, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Counts a batch.

        Args:
            scores: (H, C, B).
            labels: (B,) int64, on the same device.
        """
        mine = scores.gather(1, labels.expand(len(scores), 1, -1))
        smaller_class = torch.arange(scores.shape[1], device=labels.device)[:, None] < labels
        ahead = ((scores > mine) | ((scores == mine) & smaller_class)).sum(1)
        ahead = torch.where(mine[:, 0].isfinite(), ahead, max(self.ks))
        for i, k in enumerate(self.ks):
            self._correct[i] += (ahead < k).sum(1)
        self._count += len(labels)

    def top(self) -> dict[str, list[float]]:
        """``{"top1": [of every head], "top5": …}`` as fractions; waits for the device."""
        counts = torch.cat([self._correct.flatten(), self._count[None]])
        if self.across_ranks:
            dist.all_reduce(counts)
        share = counts[:-1].view(len(self.ks), -1).double() / counts[-1]
        return {f"top{k}": row.tolist() for k, row in zip(self.ks, share, strict=True)}
