"""How far two trainings lie apart, how far two samples, and what still counts as equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

Weights = Mapping[str, Tensor]

FIRST_STEPS, FIRST_TOLERANCE = 2, 1e-5  # losses of the first steps agree to so much, relative
OWN_DIFFERENCES = 3.0  # later ones to so many times the difference of the authors' code to itself
SCHEDULE_TOLERANCE = 1e-12
FEATURES_TOLERANCE = 1e-5  # of a backbone that a file of the authors' gives, relative


def relative(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """``|ours - theirs| / |theirs|`` of each pair."""
    return [abs(a - b) / abs(b) if a != b else 0.0 for a, b in zip(ours, theirs, strict=True)]


def distances(ours: Sequence[Weights], theirs: Sequence[Weights], start: Weights) -> list[float]:
    """After each step ``||ours - theirs|| / ||theirs - start||``, the distance as a share of the way from the start."""

    def norm(a: Weights, b: Weights) -> float:
        return sum(float((a[name].double() - b[name].double()).square().sum()) for name in theirs[0]) ** 0.5

    return [norm(a, b) / norm(b, start) for a, b in zip(ours, theirs, strict=True)]


def own_difference(others: Sequence[Sequence[float]]) -> list[float]:
    """For each step the largest difference that any of the other orders has shown up to it."""
    return np.maximum.accumulate(np.max(others, axis=0)).tolist()


def allowed(own: Sequence[float]) -> list[float]:
    """For each step the relative difference of the losses that is allowed, from the authors' difference to itself."""
    return [FIRST_TOLERANCE if step < FIRST_STEPS else OWN_DIFFERENCES * own[step] for step in range(len(own))]


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sample Kolmogorov-Smirnov distance: the largest between the two empirical distribution functions."""
    a, b = np.sort(a), np.sort(b)
    everything = np.concatenate([a, b])
    shares = [np.searchsorted(sample, everything, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_chance(a: int, b: int, level: float = 0.01) -> float:
    """The distance that two samples of one distribution, of so many draws each, exceed in a share ``level`` of cases.

    The asymptotic form ``sqrt(-ln(level / 2) / 2) sqrt((a + b) / (a b))``.
    """
    return float(np.sqrt(-np.log(level / 2) / 2 * (a + b) / (a * b)))
