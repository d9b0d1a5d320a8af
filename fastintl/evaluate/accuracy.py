"""Top-k accuracy, counted so that batches and ranks add up to each sample once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from fastintl.distributed import World
from loaders import Loader

_KS = (1, 5)  # of five classes or fewer, top-5 counts every sample


class Accuracy:
    """Counts, for H classifiers at once, the samples whose label is among the 1 and the 5 highest scores.

    Of equal scores the smaller class is the higher; a score that is not a number is never right.

    Args:
        heads: the number of classifiers, H.
        across_ranks: whether the ranks count shares of the samples, to be added up; every rank must then ask.
    """

    def __init__(self, heads: int, device: torch.device | str = "cpu", across_ranks: bool = False) -> None:
        self.across_ranks = across_ranks
        self._correct = torch.zeros(len(_KS), heads, dtype=torch.int64, device=device)
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
        ahead = torch.where(mine[:, 0].isfinite(), ahead, max(_KS))
        for i, k in enumerate(_KS):
            self._correct[i] += (ahead < k).sum(1)
        self._count += len(labels)

    def top(self) -> dict[str, list[float]]:
        """``{"top1": [one a head], "top5": …}`` as fractions; waits for the device."""
        counts = torch.cat([self._correct.flatten(), self._count[None]])
        if self.across_ranks:
            dist.all_reduce(counts)
        share = counts[:-1].view(len(_KS), -1).double() / counts[-1]
        return {f"top{k}": row.tolist() for k, row in zip(_KS, share, strict=True)}


def best(accuracy: Mapping[str, list[float]]) -> dict[str, float]:
    """``{"top1": …, "top5": …}`` of the classifier with the highest top-1, the first of equals."""
    winner = accuracy["top1"].index(max(accuracy["top1"]))
    return {name: shares[winner] for name, shares in accuracy.items()}


@torch.no_grad()
def accuracy_on_images(
    scores: Callable[[Tensor], Tensor], heads: int, loader: Loader, world: World
) -> dict[str, list[float]]:
    """``Accuracy.top`` of H classifiers on a centre-crop loader of this rank's share; the same on every rank.

    Args:
        scores: (B, 3, s, s) -> (H, C, B).
    """
    counted = Accuracy(heads, world.device, across_ranks=world.world_size > 1)
    loader.set_position(0, 0)
    for batch in loader:
        views, labels = (x.to(world.device, non_blocking=True) for x in (batch.views[0], batch.labels))
        counted.add(scores(views), labels)
    return counted.top()
