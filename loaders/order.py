"""Which sample comes when: a pure function of (seed, epoch, rank, world size, start batch)."""

from __future__ import annotations

import numpy as np

from loaders.errors import UserError
from loaders.philox import Domain, philox

_CHUNK = 1 << 16  # of what is shuffled: all at once, of ImageNet, would take 120 MB for a moment


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffles ``0 .. count - 1``; int64, the same for every rank, thread count and NumPy version."""
    key = np.empty(count, np.uint64)
    for start in range(0, count, _CHUNK):
        part = key[start : start + _CHUNK]
        words = philox(seed, np.arange(start, start + len(part)), epoch, 0, Domain.ORDER)
        part[:] = (words[:, 0] << np.uint64(32)) | words[:, 1]
    return np.argsort(key, kind="stable")


def neighbour(count: int, seed: int, sample: int, attempt: int) -> int:
    """The sample that stands in for one that cannot be decoded, drawn anew for each attempt."""
    return int(philox(seed, sample, attempt, 0, Domain.NEIGHBOUR)[0] % np.uint64(count))


class Order:
    """The batches of one rank.

    Global batch ``b`` of a shuffled epoch is ``permutation[b B : (b + 1) B]`` and rank ``r`` takes its contiguous
    ``B / W`` slice, so the ranks' slices together are the same batch at any world size; the last incomplete batch is
    dropped. Unshuffled, the samples come in the order given, and the last batch is kept, unpadded.

    Args:
        samples: ids of the dataset's samples.
        batch_size: ``B``, images in a batch over all ranks.
        shuffled: True for training, False for evaluation.
        seed: seed of the permutation.
        rank, world_size: ``r`` and ``W``, this process's number and how many there are.

    Raises:
        UserError: a training batch does not divide among the ranks, or is larger than the dataset.
    """

    def __init__(
        self, samples: np.ndarray, batch_size: int, shuffled: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.samples, self.batch_size, self.shuffled, self.seed = samples, batch_size, shuffled, seed
        self.rank, self.world_size = rank, world_size
        if shuffled and batch_size % world_size:
            raise UserError(
                f"a batch of {batch_size} images cannot be shared evenly by {world_size} ranks: "
                f"choose a batch size that {world_size} divides"
            )
        if shuffled and len(samples) < batch_size:
            raise UserError(
                f"the dataset has {len(samples)} images, fewer than one batch of {batch_size}: lower the batch size"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        count = len(self.samples)
        return count // self.batch_size if self.shuffled else -(-count // self.batch_size)

    def batches(self, epoch: int, start_batch: int = 0) -> list[np.ndarray]:
        """This rank's share of every batch from ``start_batch`` on: int64 sample ids, possibly none in the last."""
        samples = self.samples
        if self.shuffled:
            samples = samples[permutation(len(samples), self.seed, epoch)]
        starts = range(start_batch * self.batch_size, len(self) * self.batch_size, self.batch_size)
        return [np.array_split(samples[i : i + self.batch_size], self.world_size)[self.rank] for i in starts]
