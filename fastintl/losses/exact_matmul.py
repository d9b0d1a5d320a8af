"""A batched matrix product in true float32, whatever autocast and the TF32 switches say."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

_switches = threading.Lock()


@torch.library.custom_op("fastintl::exact_matmul", mutates_args=())
def exact_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for ``a`` (V, n, k) and ``b`` (V, k, m), float32 or float64, differentiable once.

    TF32 keeps 10 bits of each factor and bfloat16 7, and both are chosen by process-wide switches that are
    read when a product is launched: a forward pass that sets them back leaves its own backward pass
    unprotected. Here every product, forward or backward, sets and restores them itself (see
    ``_true_float32``). As a custom operator it is opaque to ``torch.compile``, which neither breaks the graph
    here nor traces the switches.
    """
    with _true_float32(a.device.type):
        return torch.bmm(a, b)


@exact_matmul.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def _save_factors(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    grad_a = exact_matmul(grad, b.mT) if ctx.needs_input_grad[0] else None
    grad_b = exact_matmul(a.mT, grad) if ctx.needs_input_grad[1] else None
    return grad_a, grad_b


exact_matmul.register_autograd(_backward, setup_context=_save_factors)


@contextlib.contextmanager
def _true_float32(device_type: str) -> Iterator[None]:
    """Autocast and reduced-precision products off while one product is launched.

    The lock keeps two threads from restoring each other's value. Code that launches a product in another
    thread during these microseconds may get full float32 instead of TF32: slower once, never wrong.
    """
    with _switches, torch.autocast(device_type, enabled=False):
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
            asked = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(asked)
        elif device_type == "cuda":
            with _cublas_float32():
                yield
        else:
            matmul = torch.backends.mkldnn.matmul
            asked, matmul.fp32_precision = matmul.fp32_precision, "ieee"
            try:
                yield
            finally:
                matmul.fp32_precision = asked


@contextlib.contextmanager
def _cublas_float32() -> Iterator[None]:
    """cuBLAS without TF32. torch refuses to run when its old and new switches disagree: keep them in step."""
    matmul, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    asked = matmul.fp32_precision
    if asked != "tf32":
        yield
        return
    try:
        old_switch = torch.get_float32_matmul_precision()
    except RuntimeError:  # TF32 was asked for through the new switch alone
        old_switch = None
    matmul.allow_tf32 = False  # sets the old and the new switch
    try:
        yield
    finally:
        if old_switch is None:
            matmul.fp32_precision = asked
        else:
            cpu_asked = cpu.fp32_precision  # the old switch governs the CPU's products too
            torch.set_float32_matmul_precision(old_switch)
            cpu.fp32_precision = cpu_asked
