import math

import pytest
import torch
from torch import nn

from fastintl.model import Encoder, JointEmbedding, build_backbone, build_projector
from fastintl.optim import (
    build_optimizer,
    ema_momentum,
    learning_rate,
    parameter_groups,
    scaled_learning_rate,
    set_learning_rate,
)


def test_learning_rate_by_hand():
    """10 steps of warm-up in 110: the cosine's 100 steps end at a thousandth of the base."""
    base = scaled_learning_rate(0.4, 512)
    assert base == 0.8
    rates = [learning_rate(step, 110, 10, base) for step in range(110)]
    assert rates[0] == pytest.approx(0.08)
    assert rates[9] == pytest.approx(0.8)
    assert rates[59] == pytest.approx(0.8 * 0.5 + 0.0008 * 0.5)  # half way: q = 1/2
    assert rates[109] == pytest.approx(0.0008)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[10] < 0.8


def test_learning_rate_is_the_formula():
    for total, warmup in ((40, 8), (7, 0), (5, 5)):
        for step in range(total):
            s, budget = step, total
            if s < warmup:
                expected = 0.3 * (s + 1) / warmup
            else:
                s, budget = s - warmup, budget - warmup
                q = 0.5 * (1 + math.cos(math.pi * (s + 1) / budget))
                expected = 0.3 * q + 0.3 * 0.01 * (1 - q)
            assert learning_rate(step, total, warmup, 0.3, 0.01) == pytest.approx(expected, rel=1e-12)


def test_ema_momentum():
    assert ema_momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert ema_momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert ema_momentum(100, 100, 0.996) == pytest.approx(1)
    assert ema_momentum(25, 100, 0.9) == pytest.approx(1 - 0.5 * (1 + math.sqrt(0.5)) * 0.1)


def test_parameter_groups():
    encoder = Encoder(build_backbone("resnet8"), build_projector(128, (8, 4)))
    model = JointEmbedding(encoder, with_target=True)
    online = {id(p) for p in encoder.parameters()}
    decayed, rest = parameter_groups(model, 1e-5, decay_one_dimensional=False)
    assert decayed["weight_decay"] == 1e-5 and rest["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in rest["params"])
    assert {id(p) for p in decayed["params"] + rest["params"]} == online
    (everything,) = parameter_groups(model, 1e-4, decay_one_dimensional=True)
    assert everything["weight_decay"] == 1e-4 and {id(p) for p in everything["params"]} == online


def test_steps_are_sgd_with_momentum():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = build_optimizer(model, lr=1.0, weight_decay=0.1, decay_one_dimensional=False)
    set_learning_rate(optimizer, 0.5)
    velocity_w, velocity_b = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(3):
        optimizer.zero_grad()
        (model.weight.sum() + 2 * model.bias.sum()).backward()
        optimizer.step()
        velocity_w = 0.9 * velocity_w + 1 + 0.1 * weight
        velocity_b = 0.9 * velocity_b + 2
        weight, bias = weight - 0.5 * velocity_w, bias - 0.5 * velocity_b
    torch.testing.assert_close(model.weight.detach(), weight)
    torch.testing.assert_close(model.bias.detach(), bias)
