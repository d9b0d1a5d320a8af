"""What a network draws while it trains (dropout, dropped paths): a function of the step, so that it can be resumed."""

from __future__ import annotations

import torch

from loaders.philox import Domain, philox


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch's global generators for one step on this rank; waits for no device.

    A run that was stopped draws the same again. On another number of ranks each image meets other numbers.
    """
    high, low, *_ = philox(seed, step, step >> 32, rank, Domain.NETWORK).tolist()
    torch.manual_seed(high << 31 | low >> 1)
