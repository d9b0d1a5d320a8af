"""Functions of symmetric matrices against NumPy, SciPy and decimals, equal and vanishing eigenvalues included."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy.linalg import solve_sylvester, sqrtm

from fastintl.losses.matrix_function import Elementwise, InversePower, matrix_function


def matrix(values, seed=0):
    """A symmetric matrix with the given eigenvalues, (1, m, m)."""
    m = len(values)
    q = torch.linalg.qr(torch.randn(m, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    return (q * torch.tensor(values, dtype=torch.float64) @ q.T)[None]


def gradient(function, sigma, grad):
    sigma = sigma.clone().requires_grad_()
    (matrix_function(sigma, function) * grad).sum().backward()
    return sigma.grad[0]


@pytest.mark.parametrize("power", [0.5, 0.45, 0.3, 1.0, 2.0, 0.0])
def test_values_are_those_of_numpy(power):
    sigma = matrix([4.0, 1.0, 0.25, 1e-4, 7.0])
    values, vectors = np.linalg.eigh(sigma[0].numpy())
    expected = vectors * values**-power @ vectors.T
    found = matrix_function(sigma, InversePower(power))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize(
    "values", [[3.0, 2.0, 0.5, 0.1], [2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 5.0, 5.0], [1.0, 1 + 1e-13, 1 + 1e-9, 0.3]]
)
def test_whitening_has_the_gradient_of_the_sylvester_equation(values):
    """``Y = A^1/2`` solves ``Y dY + dY Y = dA``, and ``d(Y^-1) = -Y^-1 dY Y^-1``: no eigenvalue is ever compared."""
    sigma = matrix(values)
    rng = np.random.default_rng(0)
    grad, change = rng.normal(size=(2, len(values), len(values)))
    change = change + change.T
    root = sqrtm(sigma[0].numpy()).real
    inverse = np.linalg.inv(root)
    expected = -(inverse @ solve_sylvester(root, root, change) @ inverse * grad).sum()
    found = (gradient(InversePower(0.5), sigma, torch.from_numpy(grad)).numpy() * change).sum()
    assert found == pytest.approx(expected, rel=1e-6)  # sqrtm's own precision at equal eigenvalues


@pytest.mark.parametrize("function", [InversePower(0.5), InversePower(0.45), Elementwise(lambda v: 1 / (1 + v))])
def test_gradient_by_finite_differences(function):
    sigma = torch.cat([matrix([3.0, 2.0, 0.5]), matrix([1.0, 1.0, 1.0], seed=1)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: matrix_function((s + s.mT) / 2, function), sigma)


@pytest.mark.parametrize("power", [0.5, 0.45, 2.0])
@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-8, 1e-4, 1.0, 1e8])
def test_divided_differences_to_the_last_digits(power, gap):
    low = torch.tensor([0.37, 1e-9, 4e5], dtype=torch.float64)
    high = low * (1 + gap)
    found = InversePower(power).divided_difference(high, low)
    general = Elementwise(lambda v: v**-power).divided_difference(high, low)
    with localcontext() as context:
        context.prec = 60
        q = Decimal(-power)
        for a, b, ours, theirs in zip(high.tolist(), low.tolist(), found.tolist(), general.tolist(), strict=True):
            a, b = Decimal(a), Decimal(b)
            exact = q * a ** (q - 1) if a == b else (a**q - b**q) / (a - b)
            assert ours == pytest.approx(float(exact), rel=1e-14)
            assert theirs == pytest.approx(float(exact), rel=1e-9)


def test_whitening_s_divided_difference_is_the_closed_form():
    high, low = torch.tensor([5.0, 3.0, 2.0]).double(), torch.tensor([1e-6, 2.9, 2.0]).double()
    closed = -1 / (high.sqrt() * low.sqrt() * (high.sqrt() + low.sqrt()))
    torch.testing.assert_close(InversePower(0.5).divided_difference(high, low), closed, rtol=1e-14, atol=0)


def test_vanishing_eigenvalues_are_left_out_of_value_and_gradient():
    """As in NumPy's pseudo-inverse, whose square root this is, and finite for a matrix of zeros."""
    sigma = matrix([2.0, 1.0, 1e-17, 0.0])
    found = matrix_function(sigma, InversePower(1.0))[0]
    np.testing.assert_allclose(found, np.linalg.pinv(sigma[0].numpy(), rcond=1e-12, hermitian=True), atol=1e-12)
    for singular in (sigma, torch.zeros_like(sigma)):
        found = gradient(InversePower(0.5), singular, torch.randn(4, 4).double())
        assert found.isfinite().all() and found.abs().max() < 100


def test_a_matrix_that_is_not_finite_gives_nan_and_leaves_the_others_alone():
    sigma = torch.cat([matrix([2.0, 1.0]), torch.full((1, 2, 2), torch.inf).double()])
    found = matrix_function(sigma, InversePower(0.5))
    assert found[1].isnan().all()
    torch.testing.assert_close(found[:1], matrix_function(sigma[:1], InversePower(0.5)))


def test_a_constant_function_has_no_slope():
    found = gradient(Elementwise(torch.ones_like), matrix([2.0, 2.0, 1.0]), torch.ones(3, 3).double())
    assert found.abs().max() < 1e-12
