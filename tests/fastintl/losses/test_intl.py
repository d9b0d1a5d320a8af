import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastintl import INTLLoss
from loaders.errors import UserError


def whitened(z, axis, iterations=4):
    """IterNorm in the letters of the paper (torch float64, for its gradient)."""
    if axis == "batch":
        z = z.T
    centred = z - z.mean(1, keepdim=True)
    sigma = centred @ centred.T / (z.shape[1] - 1)
    trace = torch.trace(sigma)
    p = torch.eye(len(z), dtype=z.dtype)
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * p @ p @ p @ (sigma / trace)
    w = p @ centred / torch.sqrt(trace)
    return w.T if axis == "batch" else w


def mse(a, b):
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    return 2 - 2 * (a * b).sum(1).mean()


def trace_loss(w, axis):
    return ((w.var(1 if axis == "channel" else 0) - 1) ** 2).sum()


def reference(views, target, axis, beta=None):
    views = [v.double() for v in views]
    n, d = views[0].shape
    if beta is None:
        beta = 0.01 * (math.log2(n if axis == "channel" else d) - 3)
    w = [whitened(v, axis) for v in views]
    if target is None:
        total = sum(mse(x, w[0]) + beta * (trace_loss(x, axis) + trace_loss(w[0], axis)) for x in w[1:])
        return total / (len(w) - 1)
    anchor = whitened(target.detach().double(), axis)
    return sum(mse(x, anchor) + beta * trace_loss(x, axis) for x in w) / len(w)


def embeddings(v, n, d, correlation=0.5):
    base = torch.randn(n, d)
    return [correlation * base + math.sqrt(1 - correlation**2) * torch.randn(n, d) for _ in range(v)]


def compare(views, target, axis, beta=None):
    """Relative errors of the value and of the gradient against float64."""
    ours = [v.clone().requires_grad_() for v in views]
    theirs = [v.double().requires_grad_() for v in views]
    loss, expected = INTLLoss(axis=axis, trade_off=beta)(ours, target), reference(theirs, target, axis, beta)
    loss.backward()
    expected.backward()
    gradient = torch.stack([v.grad for v in theirs])
    error = torch.stack([v.grad for v in ours]).double() - gradient
    assert loss.dtype == torch.float32
    return abs(loss.item() / expected.item() - 1), (error.norm() / gradient.norm()).item()


@pytest.mark.parametrize("axis", ["channel", "batch"])
@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("n, d", [(8, 16), (16, 8), (32, 64), (64, 256), (128, 32)])
def test_agrees_with_float64(axis, with_target, n, d):
    torch.manual_seed(n * d)
    for v in range(2, 7) if n < 64 else (2, 6):
        *views, target = embeddings(v + 1, n, d)
        value, gradient = compare(views, target if with_target else None, axis)
        assert value < 1e-6 and gradient < 1e-5


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("axis", ["channel", "batch"])
def test_agrees_with_float64_at_full_size(axis, with_target):
    torch.manual_seed(0)
    *views, target = embeddings(3, 256, 2048)
    if axis == "batch":  # the reference's (d, d) powers in float64 take their time
        views, target = [v[:, :768] for v in views], target[:, :768]
    value, gradient = compare(views, target if with_target else None, axis)
    assert value < 1e-6 and gradient < 1e-5


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("axis", ["channel", "batch"])
def test_agrees_with_float64_at_any_scale(axis, scale):
    torch.manual_seed(1)
    views = [scale * (v + 3) for v in embeddings(3, 24, 40)]
    value, gradient = compare(views, None, axis, beta=0.2)
    assert value < 1e-6 and gradient < 1e-5


def test_value_worked_out_in_numpy():
    """One case by another library, with an eigendecomposition in the place of Newton's iterations."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 20))

    def whiten_by_eigenvalues(z):
        centred = z - z.mean(1, keepdims=True)
        sigma = centred @ centred.T / 19
        values, vectors = np.linalg.eigh(sigma / np.trace(sigma))
        p = np.ones_like(values)
        for _ in range(4):
            p = 1.5 * p - 0.5 * p**3 * values
        return vectors * p @ vectors.T @ centred / np.sqrt(np.trace(sigma))

    wa, wb = whiten_by_eigenvalues(a), whiten_by_eigenvalues(b)
    cosine = (wa * wb).sum(1) / np.linalg.norm(wa, axis=1) / np.linalg.norm(wb, axis=1)
    trace = sum(((w.var(1, ddof=1) - 1) ** 2).sum() for w in (wa, wb))
    expected = 2 - 2 * cosine.mean() + 0.01 * (math.log2(6) - 3) * trace
    loss = INTLLoss()(torch.tensor(np.stack([a, b]), dtype=torch.float32))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_default_trade_off_is_the_papers():
    views = torch.randn(2, 256, 16)
    torch.testing.assert_close(INTLLoss()(views), INTLLoss(trade_off=0.05)(views))
    views = torch.randn(2, 16, 64)
    torch.testing.assert_close(INTLLoss(axis="batch")(views), INTLLoss(axis="batch", trade_off=0.03)(views))


def test_tensor_and_list_agree_and_the_target_gets_no_gradient():
    torch.manual_seed(0)
    views, target = torch.randn(3, 8, 16), torch.randn(8, 16, requires_grad=True)
    views.requires_grad_()
    loss = INTLLoss()(views, target=target)
    assert loss == INTLLoss()(list(views), target=target) and loss.ndim == 0
    loss.backward()
    assert target.grad is None and views.grad.abs().sum() > 0
    assert INTLLoss()(views[:1], target=target).isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_inside_autocast(dtype):
    torch.manual_seed(0)
    views = (100 * torch.randn(3, 16, 256)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = INTLLoss()(views)
    loss.backward()
    assert loss.dtype == torch.float32 and views.grad.dtype == dtype
    assert loss.item() == pytest.approx(reference(list(views), None, "channel").item(), rel=1e-6)


def degenerate(case):
    z = torch.randn(2, 6, 10)
    if case == "two identical samples":
        z[:, 1] = z[:, 0]
    elif case == "batch of two identical samples":
        z = z[:, :1].expand(2, 2, 10).clone()
    elif case == "one constant row":
        z[0, 2] = 0.1
    elif case == "a constant row in each view":
        z[0, 2], z[1, 4] = 0.1, -1234.5
    elif case == "every row constant":
        z = torch.arange(6.0)[None, :, None].expand(2, 6, 10) * 0.1
    elif case == "all rows equal":
        z = z[:, :1].expand(2, 6, 10)
    elif case == "all equal":
        z = torch.full_like(z, 0.1)
    elif case == "all zero":
        z = torch.zeros_like(z)
    elif case == "constant channel":
        z[..., 3] = 7.7
    elif case == "sample at the mean":
        z = torch.tensor([[-1.0, 2], [0, 0], [1, -2]]).expand(2, 3, 2)
    elif case == "equal views":
        z = z[:1].expand(2, 6, 10)
    elif case == "one row much smaller":
        z[:, 0] *= 1e-9
    else:
        z = z * float(case)
    return z.clone()


@pytest.mark.parametrize("axis", ["channel", "batch"])
@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize(
    "case",
    "1e-20 1e-10 1e-4 1e4 1e10 1e20".split()
    + ["two identical samples", "batch of two identical samples", "one constant row", "every row constant"]
    + ["a constant row in each view", "all rows equal", "all equal", "all zero", "constant channel"]
    + ["sample at the mean", "equal views", "one row much smaller"],
)
def test_finite_value_and_gradient(axis, with_target, case):
    torch.manual_seed(0)
    views = degenerate(case).requires_grad_()
    loss = INTLLoss(axis=axis)(views, target=views[0].detach() if with_target else None)
    loss.backward()
    assert loss.isfinite() and views.grad.isfinite().all()


def test_constant_row_gets_no_gradient():
    """Rounding noise around the mean must not become a direction with a gradient of 1e6."""
    torch.manual_seed(0)
    views = torch.randn(2, 6, 10)
    views[0, 2] = 0.1
    views.requires_grad_()
    INTLLoss()(views).backward()
    assert views.grad[0, 2].abs().max() == 0 and views.grad.abs().max() < 10


def test_not_finite_stays_visible():
    views = torch.randn(2, 6, 10)
    views[0, 0, 0] = math.inf
    assert INTLLoss()(views).isnan()


@pytest.mark.parametrize(
    "views, target, says",
    [
        (torch.randn(4, 8), None, "shape"),
        (torch.randn(1, 4, 8), None, "one view"),
        (torch.randn(2, 1, 8), None, "1 samples"),
        (torch.randn(2, 4, 8), torch.randn(4, 9), "target"),
    ],
)
def test_wrong_shapes_are_named(views, target, says):
    with pytest.raises(UserError, match=says):
        INTLLoss()(views, target)


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="axis"):
        INTLLoss(axis="chanel")
    with pytest.raises(UserError, match="iterations"):
        INTLLoss(iterations=0)


def test_import_does_not_load_torch():
    code = "import sys, fastintl; fastintl.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "loss, shape, says",
    [
        (INTLLoss(), (2, 5, 16), "is -0.0068 at n = 5 samples a step, which rewards collapse: raise train.batch_size"),
        (INTLLoss(), (3, 8, 16), "is 0 at n = 8 samples a step, so that nothing keeps the embedding from collapsing"),
        (INTLLoss(axis="batch"), (2, 16, 4), "n = 4 channels, which rewards collapse: raise the last width of mod"),
        (INTLLoss(), (2, 9, 16), None),
        (INTLLoss(axis="batch"), (2, 4, 16), None),
        (INTLLoss(trade_off=0.0), (2, 4, 16), None),
    ],
)
def test_a_trade_off_that_rewards_collapse_is_told_once(loss, shape, says, caplog, monkeypatch):
    monkeypatch.setattr("fastintl.losses.base._said", set())
    for _ in range(2):
        loss(torch.randn(shape))
    told = [record.message for record in caplog.records]
    assert len(told) == (says is not None) and all(says in sentence for sentence in told)


@pytest.mark.parametrize("with_target", [False, True])
def test_the_parts_are_those_of_the_loss(with_target):
    torch.manual_seed(0)
    views, target = torch.randn(3, 16, 8, dtype=torch.float64), torch.randn(16, 8, dtype=torch.float64)
    target = target if with_target else None
    loss = INTLLoss(trade_off=0.1)
    parts = loss.parts(views, target)
    assert sum(parts.values()).item() == pytest.approx(loss(views, target).item(), rel=1e-12)
    alone = INTLLoss(trade_off=0.0)(views, target)  # the trace loss weighs nothing
    assert parts["alignment"].item() == pytest.approx(alone.item(), rel=1e-12) and parts["trace"] > 0
