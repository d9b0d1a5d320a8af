"""The spectrum against NumPy's covariance and eigenvalues, and the warning at collapse."""

import json
import logging

import numpy as np
import pytest
import torch

from fastintl import config as configuration
from fastintl.losses.whitening import whiten
from fastintl.training import spectrum
from fastintl.training.build import build_loss
from fastintl.training.spectrum_watch import SpectrumWatch


def embedding(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Correlated channels of different sizes, far from the origin."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=rng) * torch.logspace(0, -2, d)
    return torch.randn(n, d, generator=rng) @ mixing + 3 * torch.randn(d, generator=rng)


def numpy_eigenvalues(z: torch.Tensor, axis: str) -> np.ndarray:
    """Of the covariance of samples (channel axis) or of channels, largest first."""
    z = z.double().numpy()
    return np.linalg.eigvalsh(np.cov(z if axis == "channel" else z.T))[::-1]


@pytest.mark.parametrize("axis", ["channel", "batch"])
@pytest.mark.parametrize("n, d", [(16, 40), (40, 16), (24, 24)])
def test_eigenvalues_before_and_after_whitening_are_those_of_numpy(axis, n, d):
    z = embedding(n, d)
    before = spectrum.eigenvalues(z, axis)
    expected = numpy_eigenvalues(z, axis)
    np.testing.assert_allclose(before, expected[: len(before)], rtol=1e-9, atol=1e-12 * expected[0])
    assert np.abs(expected[len(before) :]).max(initial=0) < 1e-12 * expected[0]  # what is left out is zero
    assert len(before) == (min(n, d - 1) if axis == "channel" else min(n - 1, d))
    for iterations in (1, 4, 7):
        after = spectrum.whitened(before, iterations)
        expected = np.sort(numpy_eigenvalues(whiten(z.double()[None], iterations, axis)[0], axis))[::-1]
        np.testing.assert_allclose(np.sort(after)[::-1], expected[: len(after)], rtol=1e-8, atol=1e-10)


def test_effective_rank_and_condition_number():
    from scipy.stats import entropy

    values = torch.tensor([5.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    assert spectrum.effective_rank(values) == pytest.approx(np.exp(entropy(values.numpy())))
    assert spectrum.effective_rank(torch.ones(7).double()) == pytest.approx(7)
    assert spectrum.effective_rank(torch.eye(7).double()[0]) == pytest.approx(1)
    assert spectrum.effective_rank(torch.zeros(7).double()) == 0
    assert spectrum.condition_number(values) == pytest.approx(50)
    assert 1e14 < spectrum.condition_number(torch.eye(7).double()[0]) < 1e16
    assert 1e14 < spectrum.condition_number(torch.zeros(7).double()) < 1e16


def watch(*keys: str) -> SpectrumWatch:
    config = configuration.load(None, keys)
    return SpectrumWatch(config.log, build_loss(config.loss))


@pytest.mark.parametrize("axis", ["channel", "batch"])
def test_the_metrics_are_those_of_the_first_view_and_can_be_written(axis):
    views = torch.stack([embedding(128, 200), embedding(128, 200, seed=1)])
    row = watch(f"loss.axis={axis}").measure(views, step=3)
    row = json.loads(json.dumps(row, allow_nan=False))
    expected = numpy_eigenvalues(views[0], axis)[: row["possible_rank"]]
    assert row["possible_rank"] == (128 if axis == "channel" else 127)
    assert row["top_eigenvalue_share"] == pytest.approx(expected[0] / expected.sum())
    assert row["condition_number"] == pytest.approx(expected[0] / expected[-1], rel=1e-6)
    listed = row["spectrum"]
    assert len(listed["ranks"]) <= 64 and listed["ranks"][0] == 1 and listed["ranks"][-1] == row["possible_rank"]
    np.testing.assert_allclose(listed["before"], expected[np.array(listed["ranks"]) - 1], rtol=1e-3)
    assert 1 < row["effective_rank"] < row["effective_rank_whitened"] < row["possible_rank"]


@pytest.mark.parametrize(
    "name, axis", [("cw_rgp", "channel"), ("barlow_twins", "batch"), ("spectral", "channel"), ("intl", "channel")]
)
def test_after_is_the_spectrum_of_what_the_loss_compares(name, axis):
    views = embedding(64, 300)[None]
    torch.manual_seed(0)
    row = watch(f"loss.name={name}", "model.ema=false").measure(views, step=3)
    torch.manual_seed(0)
    compared = build_loss(configuration.Loss(name=name)).transformed(views.double())[0]
    expected = numpy_eigenvalues(compared, axis)[np.array(row["spectrum"]["ranks"]) - 1]
    np.testing.assert_allclose(row["spectrum"]["after"], expected, rtol=1e-3, atol=1e-9)
    assert row["collapse_limit"] == (6.4 if name == "intl" else 2)  # a share is known for INTL alone
    if name == "spectral":  # hard whitening
        assert row["effective_rank_whitened"] == pytest.approx(row["possible_rank"])


def test_it_is_due_on_the_log_steps_at_or_after_its_multiples():
    log_steps = range(10, 201, 10)
    assert [s for s in log_steps if watch("log.spectrum_every=50").is_due(s, False)] == [50, 100, 150, 200]
    assert [s for s in log_steps if watch("log.spectrum_every=45").is_due(s, False)] == [50, 90, 140, 180]
    assert [s for s in log_steps if watch("log.spectrum_every=3").is_due(s, False)] == list(log_steps)
    assert watch("log.spectrum_every=50").is_due(77, True)
    assert not watch("log.spectrum_every=0").is_due(50, True)


def collapsed(kind: str) -> torch.Tensor:
    healthy = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(0))
    if kind == "one point":  # every image has the same embedding, but for noise
        return healthy[:, :1] + 1e-3 * healthy
    return healthy[:, :, :3] @ healthy[:, :3]  # three directions


@pytest.mark.parametrize("kind", ["one point", "three directions"])
def test_collapse_is_told_once_an_onset(kind, caplog):
    healthy, few = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(1)), collapsed(kind)
    watched = watch()
    counts = []
    for step, views in enumerate([healthy, few, few, healthy, few, few]):
        with caplog.at_level(logging.WARNING):
            row = watched.measure(views, step)
        counts.append(sum("has collapsed" in record.message for record in caplog.records))
        assert (row["effective_rank_whitened"] < row["collapse_limit"]) == (views is few)
    assert counts == [0, 1, 1, 1, 2, 2]
    assert "step 1" in caplog.records[0].message and "loss.trade_off" in caplog.records[0].message


def test_an_embedding_of_zeros_has_collapsed_and_one_that_is_not_finite_has_no_spectrum(caplog):
    row = watch().measure(torch.zeros(1, 8, 16), 1)
    assert row["effective_rank_whitened"] == 0 and "has collapsed" in caplog.text
    assert json.loads(json.dumps(row, allow_nan=False))["top_eigenvalue_share"] == 1
    assert watch().measure(torch.full((1, 8, 16), torch.nan), 1) == {}
