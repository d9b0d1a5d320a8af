"""The fast step against the plain one: compiled, channels_last and in reduced precision against eager float32."""

import shutil

import pytest
import torch

from fastintl import config as configuration
from fastintl.distributed import World
from fastintl.training_step import TrainingStep
from loaders.errors import UserError

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SIZES = (24, 24, 16)


def training_step(precision="fp32", compile="off", device="cpu", **changes):
    keys = {
        "model.arch": "resnet8",
        "model.stem": "cifar",
        "model.zero_init_residual": "false",
        "model.projector": "[64,64]",
        "train.batch_size": 16,
        "train.precision": precision,
        "train.compile": compile,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    config = configuration.load(None, [f"{key}={value}" for key, value in keys.items()])
    return TrainingStep(config, World(0, 1, 0, torch.device(device)), epoch_steps=10)


def pictures(device="cpu"):
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(16, 3, s, s, generator=generator) for s in SIZES]
    return [view.to(device, memory_format=torch.channels_last) for view in views]


def loss_and_gradients(step, views):
    loss = step.forward(views)
    step.scaler.scale(loss).backward()
    scale = step.scaler.get_scale()
    gradients = {name: p.grad.float().cpu() / scale for name, p in step.model.encoder.named_parameters()}
    return loss.item(), gradients


def assert_agrees(fast, device, loss_tolerance, gradient_tolerance):
    expected_loss, expected = loss_and_gradients(training_step(), [v.contiguous() for v in pictures()])
    loss, gradients = loss_and_gradients(fast, pictures(device))
    print(loss, expected_loss)
    for n in expected: print(n, ((gradients[n]-expected[n]).norm()/expected[n].norm()).item())
    assert loss == pytest.approx(expected_loss, rel=loss_tolerance)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= gradient_tolerance * gradient.norm(), name


@pytest.mark.parametrize("precision,compile", [("fp32","on"), ("bf16","off"), ("bf16", "on")])
def test_x(precision, compile):
    assert_agrees(training_step(precision, compile), "cpu", 1e-9, 0.0)
