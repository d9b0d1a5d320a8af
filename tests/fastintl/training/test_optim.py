import copy
import math

import pytest
import torch
from torch import nn

from fastintl import config
from fastintl.config import Optim
from fastintl.network.model import Encoder, JointEmbedding, build_backbone, build_projector
from fastintl.training.lars import LARS
from fastintl.training.optim import Schedule, build_optimizer, ema_momentum, parameter_groups, set_learning_rate


def rates(epochs: int, epoch_steps: int, *words: str) -> list[float]:
    """The learning rate of every step of a run."""
    schedule = Schedule.of(config.load(None, [f"train.epochs={epochs}", *words]), epoch_steps)
    return [schedule(step) for step in range(epochs * epoch_steps)]


def test_cosine_by_hand():
    """10 steps of warm-up in 110: the cosine's 100 steps end at a thousandth of the base."""
    found = rates(11, 10, "optim.lr=0.4", "train.batch_size=512", "optim.warmup_epochs=1")
    assert found[0] == pytest.approx(0.08)
    assert found[9] == pytest.approx(0.8)
    assert found[59] == pytest.approx(0.8 * 0.5 + 0.0008 * 0.5)  # half way: q = 1/2
    assert found[109] == pytest.approx(0.0008)
    assert found[10:] == sorted(found[10:], reverse=True) and found[10] < 0.8


def test_cosine_is_the_formula():
    for total, warmup in ((40, 8), (7, 0), (5, 5)):
        words = ("optim.lr=0.3", f"optim.warmup_steps={warmup}", "optim.final_fraction=0.01")
        for step, found in enumerate(rates(total, 1, *words)):
            s, budget = step, total
            if s < warmup:
                expected = 0.3 * (s + 1) / warmup
            else:
                s, budget = s - warmup, budget - warmup
                q = 0.5 * (1 + math.cos(math.pi * (s + 1) / budget))
                expected = 0.3 * q + 0.3 * 0.01 * (1 - q)
            assert found == pytest.approx(expected, rel=1e-12)


def test_cosine_by_epoch_falls_to_zero_in_steps_of_an_epoch():
    words = ("optim.schedule=cosine_epoch", "optim.final_fraction=0", "optim.warmup_steps=3", "optim.lr=0.05")
    found = rates(4, 5, *words, "train.batch_size=512")
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4) for _ in range(5)]
    assert found == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, *expected[3:]])


@pytest.mark.parametrize("epochs", [20, 40, 60])
def test_steps_are_torchs_multistep_after_a_warmup_that_ends_within_an_epoch(epochs):
    words = ("optim.name=adam", "optim.lr=3e-3", "optim.schedule=step", "optim.warmup_steps=5", "train.batch_size=512")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-3)  # adam's rate is absolute: 512 images change nothing
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[epochs - 50, epochs - 25], gamma=0.2)
    expected = []
    for _ in range(epochs):
        expected += [optimizer.param_groups[0]["lr"]] * 2
        optimizer.step()
        theirs.step()
    expected[:5] = [3e-3 * (step + 1) / 5 for step in range(5)]
    assert rates(epochs, 2, *words) == pytest.approx(expected, rel=1e-12)


def test_ema_momentum():
    assert ema_momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert ema_momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert ema_momentum(100, 100, 0.996) == pytest.approx(1)
    assert ema_momentum(25, 100, 0.9) == pytest.approx(1 - 0.5 * (1 + math.sqrt(0.5)) * 0.1)


def test_parameter_groups():
    encoder = Encoder(build_backbone("resnet8"), build_projector(128, (8, 4)))
    model = JointEmbedding(encoder, with_target=True)
    online = {id(p) for p in encoder.parameters()}
    decayed, rest = parameter_groups(model, Optim(weight_decay=1e-5))
    assert decayed["weight_decay"] == 1e-5 and rest["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in rest["params"])
    assert {id(p) for p in decayed["params"] + rest["params"]} == online
    (everything,) = parameter_groups(model, Optim(weight_decay=1e-4, decay_one_dimensional=True))
    assert everything["weight_decay"] == 1e-4 and {id(p) for p in everything["params"]} == online
    own_rate = parameter_groups(model, Optim(lr=0.2, lr_one_dimensional=0.0048, decay_one_dimensional=True))
    assert [group["weight_decay"] for group in own_rate] == [1e-5, 1e-5]
    optimizer = build_optimizer(model, Optim(lr=0.2, lr_one_dimensional=0.0048))
    set_learning_rate(optimizer, 1.6)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.6, 0.0384])


def trained(settings: Optim, **attributes: float) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A layer after three steps at a rate of 0.5 on gradients 1 and 2."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, settings)
    set_learning_rate(optimizer, 0.5)
    for name, value in attributes.items():
        setattr(optimizer, name, torch.tensor(value))
    for _ in range(3):
        optimizer.zero_grad()
        ((model.weight.sum() + 2 * model.bias.sum()) * attributes.get("grad_scale", 1)).backward()
        optimizer.step()
    return model, optimizer


def test_steps_are_sgd_with_momentum():
    model, _ = trained(Optim(weight_decay=0.1))
    torch.manual_seed(0)
    start = nn.Linear(3, 2)
    weight, bias = start.weight.detach(), start.bias.detach()
    velocity_w, velocity_b = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(3):
        velocity_w = 0.9 * velocity_w + 1 + 0.1 * weight
        velocity_b = 0.9 * velocity_b + 2
        weight, bias = weight - 0.5 * velocity_w, bias - 0.5 * velocity_b
    torch.testing.assert_close(model.weight.detach(), weight)
    torch.testing.assert_close(model.bias.detach(), bias)


def test_adam_is_torchs_with_the_decay_in_the_gradient():
    model, _ = trained(Optim(name="adam", weight_decay=0.1, decay_one_dimensional=True))
    torch.manual_seed(0)
    plain = nn.Linear(3, 2).double()
    means, squares = ([torch.zeros_like(p) for p in plain.parameters()] for _ in range(2))
    for step in range(1, 4):  # Kingma and Ba, algorithm 1, in float64
        for p, slope, mean, square in zip(plain.parameters(), (1, 2), means, squares, strict=True):
            gradient = slope + 0.1 * p.data
            mean.mul_(0.9).add_(0.1 * gradient)
            square.mul_(0.999).add_(0.001 * gradient**2)
            p.data -= 0.5 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(model.weight.double(), plain.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bias.double(), plain.bias, rtol=1e-5, atol=1e-6)


def test_lars_scales_the_steps_of_weights_and_not_of_biases():
    model, _ = trained(Optim(name="lars", weight_decay=0.1))
    torch.manual_seed(0)
    start = nn.Linear(3, 2).double()
    weight, bias = start.weight.detach(), start.bias.detach()
    velocity_w, velocity_b = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(3):
        update = 1 + 0.1 * weight
        velocity_w = 0.9 * velocity_w + update * 0.001 * weight.norm() / update.norm()
        velocity_b = 0.9 * velocity_b + 2
        weight, bias = weight - 0.5 * velocity_w, bias - 0.5 * velocity_b
    torch.testing.assert_close(model.weight.detach().double(), weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bias.detach().double(), bias, rtol=1e-5, atol=1e-6)


def test_lars_moves_weights_of_zero():
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([parameter], lr=1.0)
    parameter.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(parameter.detach(), -torch.ones(2, 2))


@pytest.mark.parametrize("name", ["sgd", "adam", "lars"])
def test_every_optimiser_unscales_gradients_and_leaves_updates_out(name):
    model, optimizer = trained(Optim(name=name), grad_scale=8.0)
    torch.testing.assert_close(model.weight, trained(Optim(name=name))[0].weight)
    before = [p.detach().clone() for p in model.parameters()]
    kept = copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.found_inf = torch.tensor(1.0)
    for p in model.parameters():
        p.grad.fill_(math.nan)
    optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))
    for i, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[key], kept[i][key]) for key in state)
