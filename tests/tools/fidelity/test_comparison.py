"""The figures that the comparison with the authors' code rests on."""

import numpy as np
import pytest
import torch
from scipy import stats

from tools.fidelity import comparison


@pytest.mark.parametrize("levels", [None, 7], ids=["continuous", "with ties"])
def test_ks_distance_is_scipys(levels):
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=300), generator.normal(0.2, 1.1, size=170)
    if levels:
        a, b = np.round(a * levels), np.round(b * levels)
    assert comparison.ks_distance(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)


def test_chance_is_the_limit_of_kolmogorovs_distribution():
    for level in (0.05, 0.01, 1e-4):
        wanted = stats.kstwobign.isf(level) * np.sqrt((300 + 170) / (300 * 170))
        assert comparison.ks_chance(300, 170, level) == pytest.approx(wanted, rel=1e-3)


def test_what_is_allowed():
    own = comparison.own_difference([[0.0, 2e-7, 1e-7, 5e-4], [1e-8, 1e-7, 3e-7, 1e-4]])
    assert own == [1e-8, 2e-7, 3e-7, 5e-4]  # the largest of both, never falling
    assert comparison.allowed(own) == pytest.approx([1e-5, 1e-5, 9e-7, 1.5e-3])


def test_relative_difference_of_equal_values_is_none_at_zero_too():
    assert comparison.relative([0.0, 2.0, 3.0], [0.0, 2.5, 3.0]) == [0.0, pytest.approx(0.2), 0.0]


def test_distances_are_shares_of_the_way():
    start = {"a": torch.zeros(3), "b": torch.zeros(2)}
    theirs = [{"a": torch.tensor([3.0, 0, 0]), "b": torch.tensor([0.0, 4])}]
    ours = [{"a": torch.tensor([3.0, 0.6, 0]), "b": torch.tensor([0.8, 4])}]
    assert comparison.distances(ours, theirs, start) == [pytest.approx(1.0 / 5)]
