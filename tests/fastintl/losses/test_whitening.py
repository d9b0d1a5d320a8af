import pytest
import torch

from fastintl.losses.exact_matmul import exact_matmul
from fastintl.losses.whitening import whiten


def reference(z, iterations, axis):
    """One view, in the letters of the paper, float64."""
    z = z.double()
    if axis == "channel":
        centred = z - z.mean(1, keepdim=True)
        sigma = centred @ centred.T / (z.shape[1] - 1)
    else:
        centred = z - z.mean(0)
        sigma = centred.T @ centred / (z.shape[0] - 1)
    s = sigma / sigma.trace()
    p = torch.eye(len(s), dtype=s.dtype)
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * torch.linalg.matrix_power(p, 3) @ s
    w = p / sigma.trace().sqrt()
    return w @ centred if axis == "channel" else centred @ w


def relative_error(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("axis", ["channel", "batch"])
@pytest.mark.parametrize("iterations", [1, 2, 4])
@pytest.mark.parametrize("shape", [(3, 8, 32), (2, 40, 12), (1, 16, 16)])
def test_agrees_with_the_definition(axis, iterations, shape):
    torch.manual_seed(0)
    views = torch.randn(shape) * 3 + 1
    expected = torch.stack([reference(z, iterations, axis) for z in views])
    assert relative_error(whiten(views, iterations, axis), expected) < 1e-6
    assert relative_error(whiten(views.double(), iterations, axis), expected) < 1e-12


def test_many_iterations_whiten():
    """Channel axis: the covariance of the samples tends to the identity; batch axis: that of the channels."""
    torch.manual_seed(0)
    w = whiten(torch.randn(1, 8, 64, dtype=torch.float64), 20, "channel")[0]
    torch.testing.assert_close(w @ w.T / 63, torch.eye(8, dtype=torch.float64), atol=1e-10, rtol=0)
    w = whiten(torch.randn(1, 64, 8, dtype=torch.float64), 20, "batch")[0]
    torch.testing.assert_close(w.T @ w / 63, torch.eye(8, dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("axis", ["channel", "batch"])
@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e-4, 1e4, 1e10, 1e20])
def test_scale_and_offset_do_not_matter(axis, scale):
    torch.manual_seed(0)
    views = torch.randn(2, 8, 32)
    assert relative_error(whiten(views * scale, 4, axis), whiten(views.double(), 4, axis)) < 1e-6
    moved = (views + 1000).double()  # what float32 holds of it
    assert relative_error(whiten(views + 1000, 4, axis), whiten(moved, 4, axis)) < 1e-6


@pytest.mark.parametrize("axis", ["channel", "batch"])
@pytest.mark.parametrize("shape", [(2, 4, 9), (2, 9, 4)])
def test_gradient_by_finite_differences(axis, shape):
    torch.manual_seed(0)
    views = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: whiten(z, 4, axis), views)


@pytest.mark.parametrize("asked", ["high", "medium"])
def test_products_stay_float32_under_autocast_and_reduced_precision(asked):
    torch.manual_seed(0)
    a, b = torch.randn(2, 64, 512, requires_grad=True), torch.randn(2, 512, 64)
    grad = torch.randn(2, 64, 64)
    torch.set_float32_matmul_precision(asked)
    switches = (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = exact_matmul(a, b)
            product.backward(grad)  # inside autocast too, as some loops have it
        after = (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision)
        assert after == switches and torch.get_float32_matmul_precision() == asked
    finally:
        torch.set_float32_matmul_precision("highest")
    assert product.dtype == a.grad.dtype == torch.float32
    assert relative_error(product, a.detach().double() @ b.double()) < 1e-6
    assert relative_error(a.grad, grad.double() @ b.double().mT) < 1e-6


def test_cublas_switch_is_set_and_restored(monkeypatch):
    """The switch of a GPU's products, watched where it is read: at the launch. Needs no GPU."""
    from fastintl.losses import exact_matmul as module

    def check(restored):
        with module._cublas_float32():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert not torch.backends.cuda.matmul.allow_tf32  # raises if the two switches disagree
        assert restored()

    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        cpu = torch.backends.mkldnn.matmul.fp32_precision
        check(lambda: torch.backends.cuda.matmul.allow_tf32)
        assert torch.backends.mkldnn.matmul.fp32_precision == cpu
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        check(lambda: torch.backends.cuda.matmul.fp32_precision == "tf32")
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("asked", ["highest", "high"])
def test_gpu_agrees_with_float64_whatever_tf32(asked):
    torch.manual_seed(0)
    views = torch.randn(2, 32, 512, device="cuda", requires_grad=True)
    exact = views.detach().double().requires_grad_()
    weights = torch.randn(2, 32, 512, device="cuda")
    torch.set_float32_matmul_precision(asked)
    try:
        with torch.autocast("cuda", dtype=torch.float16):
            w = whiten(views)
        (w * weights).sum().backward()
        (whiten(exact) * weights).sum().backward()
        assert torch.get_float32_matmul_precision() == asked
    finally:
        torch.set_float32_matmul_precision("highest")
    assert relative_error(w, whiten(exact)) < 1e-6
    assert relative_error(views.grad, exact.grad) < 1e-5
