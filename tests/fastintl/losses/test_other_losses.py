"""Barlow Twins and spectral transformations against float64, and what every loss must stand."""

import pytest
import torch

from fastintl import BarlowTwinsLoss, CWRGPLoss, INTLLoss, SpectralLoss
from loaders.errors import UserError
from tests.fastintl.losses import references


def embeddings(v, n, d, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng) + torch.randn(v, n, d, generator=rng) + 2


def compare(views, loss, reference):
    """Relative errors of the value and of the gradient."""
    ours, theirs = views.clone().requires_grad_(), views.double().requires_grad_()
    value, expected = loss(ours), reference(theirs)
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32 and value.ndim == 0
    error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
    return abs(value.item() / expected.item() - 1), error.item()


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("n, d", [(8, 20), (20, 8), (16, 16)])
@pytest.mark.parametrize("lambd", [0.0051, 1.0])
def test_barlow_twins_agrees_with_float64(views, n, d, lambd):
    value, gradient = compare(
        embeddings(views, n, d), BarlowTwinsLoss(lambd), lambda z: references.barlow_twins(z, lambd)
    )
    assert value < 1e-6 and gradient < 1e-5


@pytest.mark.parametrize("axis", ["channel", "batch"])
@pytest.mark.parametrize("n, d", [(8, 20), (20, 8)])
@pytest.mark.parametrize("power", [0.5, 0.45, 0.1])
@pytest.mark.parametrize("with_target", [False, True])
def test_spectral_transformations_agree_with_float64(axis, n, d, power, with_target):
    *views, target = embeddings(4, n, d)
    target = target if with_target else None
    loss = SpectralLoss("power", power, axis, trade_off=0.02)
    value, gradient = compare(
        torch.stack(views),
        lambda z: loss(z) if target is None else loss(z, target),
        lambda z: references.spectral(z, target, power, axis, 0.02),
    )
    assert value < 1e-6 and gradient < 1e-5


def test_whitening_is_the_half_power_and_a_function_of_one_s_own():
    views = embeddings(2, 8, 20)
    expected = SpectralLoss("power", 0.5)(views)
    for same in (SpectralLoss(), SpectralLoss(torch.rsqrt)):
        torch.testing.assert_close(same(views), expected)
    assert SpectralLoss("power", 0.4)(views) != expected


def test_intl_with_many_iterations_tends_to_hard_whitening():
    views = embeddings(2, 8, 64).double()
    torch.testing.assert_close(INTLLoss(20, trade_off=0.0)(views), SpectralLoss()(views))


LOSSES = {
    "intl": INTLLoss(),
    "cw_rgp": CWRGPLoss(2, 4),
    "barlow_twins": BarlowTwinsLoss(),
    "whiten": SpectralLoss(),
    "whiten the channels": SpectralLoss(axis="batch"),
    "power": SpectralLoss("power", 0.4, trade_off=0.1),
    "own function": SpectralLoss(lambda values: 1 / (0.1 + values)),
}


def degenerate(case):
    z = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))
    if case == "identical samples":
        z[:, 1:4] = z[:, :1]
    elif case == "all samples identical":
        z = z[:, :1].expand(2, 8, 10)
    elif case == "nearly identical samples":
        z[:, 1] = z[:, 0] * (1 + 1e-6)
    elif case == "dead channel":
        z[..., 3] = 7.7
    elif case == "constant sample":
        z[:, 2] = 0.3
    elif case == "all zero":
        z = torch.zeros_like(z)
    elif case == "one direction":
        z = z[:, :, :1] * z[:, :1]
    elif case == "a row much smaller":
        z[:, 0] *= 1e-9
    elif case == "rounded to bf16":
        z = z.bfloat16().float()
    else:
        z = z * float(case)
    return z.clone()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "case",
    ["identical samples", "all samples identical", "nearly identical samples", "dead channel", "constant sample"]
    + ["all zero", "one direction", "a row much smaller", "rounded to bf16", "1e-20", "1e-10", "1e10", "1e15"],
)
def test_singular_covariances_give_finite_values_and_gradients(name, case):
    views = degenerate(case).requires_grad_()
    loss = LOSSES[name](views)
    loss.backward()
    assert loss.isfinite() and views.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cw_rgp"])
def test_more_samples_than_channels_give_finite_values_and_gradients(name):
    views = torch.randn(2, 12, 6).requires_grad_()
    loss = LOSSES[name](views)
    loss.backward()
    assert loss.isfinite() and views.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_embeddings_that_are_not_finite_is_not_a_number(name):
    views = degenerate("1")
    views[0, 0, 0] = torch.inf
    assert LOSSES[name](views).isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_float32_inside_autocast(name):
    views = degenerate("1").bfloat16().requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](views)
    loss.backward()
    torch.manual_seed(0)
    assert loss.dtype == torch.float32 and loss == LOSSES[name](views.float())
    assert views.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", LOSSES)
def test_a_list_of_views_is_as_good_as_a_tensor(name):
    views = degenerate("1")
    torch.manual_seed(0)
    expected = LOSSES[name](views)
    torch.manual_seed(0)
    assert LOSSES[name](list(views)) == expected


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: BarlowTwinsLoss(-1), "lambd"),
        (lambda: SpectralLoss("whitn"), "whitn"),
        (lambda: SpectralLoss("whiten", power=0.4), "loss.transform=power"),
        (lambda: SpectralLoss(axis="sample"), "axis"),
        (lambda: BarlowTwinsLoss()(torch.randn(1, 4, 8)), "two or more views"),
        (lambda: BarlowTwinsLoss()(torch.randn(2, 1, 8)), "train.batch_size"),
    ],
)
def test_wrong_arguments_are_named(make, says):
    with pytest.raises(UserError, match=says):
        make()
