"""Every loss in the training step: by its name, on two ranks, over epochs and restarts."""

import inspect
import math

import pytest
import torch
import torch.distributed as dist

from fastintl import config as configuration
from fastintl.config.options import options
from fastintl.distributed import World
from fastintl.losses import LOSSES
from fastintl.losses.base import Position
from fastintl.losses.cw_rgp import random_orders
from fastintl.training.build import build_loss
from fastintl.training.step import TrainingStep
from loaders.errors import UserError
from tests.fastintl.losses import references
from tests.helpers.ddp import run_ranks
from tests.helpers.training import assert_identical, last_state, train

pytestmark = pytest.mark.usefixtures("one_thread")  # as a rank has: what differs is only what the ranks do

BATCH, CHANNELS = 16, 32
# Another order of summation opens or closes a few of the 8 ReLUs' gates, see test_training_step.py; twice for chance.
GATES = 2 * math.sqrt(8 * 2.0**-24)
CW_RGP = {"loss.name": "cw_rgp", "loss.groups": 2, "loss.w_size": 4}
CASES = {
    "cw_rgp, a rank": {**CW_RGP, "loss.w_iter": 2},
    "cw_rgp, all ranks": {**CW_RGP, "loss.scope": "global"},
    "barlow_twins": {"loss.name": "barlow_twins"},
    "spectral": {"loss.name": "spectral"},
}


def training_step(world_size=1, **keys):
    fixed = {
        "model.arch": "resnet8",
        "model.stem": "cifar",
        "model.zero_init_residual": "false",
        "model.projector": f"[64,{CHANNELS}]",
        "model.ema": "false",
        "train.batch_size": BATCH,
        "optim.lr": 1e-6,
    }
    config = configuration.load(None, [f"{key}={value}" for key, value in {**fixed, **keys}.items()])
    rank = dist.get_rank() if world_size > 1 else 0
    return TrainingStep(config, World(rank, world_size, rank, torch.device("cpu")), epoch_steps=10)


def views():
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(BATCH, 3, 16, 16, generator=generator) for _ in range(3)]
    return [view.contiguous(memory_format=torch.channels_last) for view in made]


def gradients(step):
    return torch.cat([p.grad.flatten() for p in step.model.encoder.parameters()])


def one_step(world_size, case):
    """Loss, gradient and embeddings of one step on this rank's share of the batch."""
    n = BATCH // world_size
    step = training_step(world_size, **CASES[case])
    start = step.world.rank * n
    loss = step([view[start : start + n] for view in views()], 3)
    return loss, gradients(step), step.embeddings[0]


def all_cases():
    return {case: one_step(2, case) for case in CASES}


@pytest.fixture(scope="module")
def two_ranks():
    return run_ranks(all_cases)


def relative_error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("case", ["cw_rgp, all ranks", "barlow_twins", "spectral"])
def test_a_loss_of_the_global_batch_is_the_same_on_two_ranks(two_ranks, case):
    loss, gradient, embeddings = one_step(1, case)
    for rank in two_ranks:
        assert rank[case][0].item() == pytest.approx(loss.item(), rel=1e-5)
        assert relative_error(rank[case][1], gradient) < GATES
        torch.testing.assert_close(rank[case][2], embeddings, rtol=1e-4, atol=1e-5)


def test_whitened_a_rank_the_mean_over_the_ranks_is_trained_on(two_ranks):
    """Against the float64 reference of each rank's half of the batch, with that rank's own draws."""
    step = training_step()
    online, _ = step.model(views())
    losses = []
    for rank, half in enumerate(online.chunk(2, dim=1)):
        shapes = (2, 8), (3, 2, 2, CHANNELS)
        samples, channels = random_orders(Position(0, 3, 0, rank), torch.device("cpu"), *shapes)
        losses.append(references.cw_rgp(half, 2, samples.view(2, 2, 4), channels))
    expected = sum(losses) / 2
    expected.backward()
    for rank in two_ranks:
        loss, gradient, embeddings = rank["cw_rgp, a rank"]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert relative_error(gradient, gradients(step)) < GATES
        torch.testing.assert_close(embeddings, online.detach(), rtol=1e-4, atol=1e-5)  # of all ranks, for the watch


def test_the_covariance_term_ends_with_the_epoch_it_is_told():
    for first_step, is_on in ((9, True), (10, False)):  # ten steps an epoch
        with_term = training_step(**CW_RGP, **{"loss.cov_w": 1.0, "loss.cov_stop": 1})
        without = training_step(**CW_RGP)
        assert (with_term(views(), first_step) != without(views(), first_step)) == is_on


def test_every_step_draws_anew_and_the_same_step_the_same():
    step = training_step(**CW_RGP)
    first, second = step(views(), 0), step(views(), 1)
    assert first != second and training_step(**CW_RGP)(views(), 0) == first


def test_stopped_and_resumed_cw_rgp_ends_with_the_same_weights(images, tmp_path):
    keys = {key.replace(".", "__"): value for key, value in CW_RGP.items()}
    keys |= {"model__ema": "false", "eval__every": 0, "optim__lr": 0.1, "train__epochs": 2}
    whole = train(tmp_path / "whole", images, **keys)
    assert whole.returncode == 0, whole.stderr
    assert train(tmp_path / "stopped", images, train__max_steps=7, **keys).returncode == 0
    assert train(tmp_path / "stopped", images, data__threads=2, **keys).returncode == 0
    assert_identical(last_state(tmp_path / "whole"), last_state(tmp_path / "stopped"))


@pytest.mark.parametrize("name", LOSSES)
def test_the_table_names_the_arguments_and_every_key_is_read(name):
    settings = configuration.Loss(name=name)
    loss = build_loss(settings)
    assert tuple(inspect.signature(type(loss)).parameters) == LOSSES[name].keys
    assert ("target" in inspect.signature(loss.forward).parameters) == LOSSES[name].target
    for key in LOSSES[name].keys:  # and the defaults are the configuration's
        default = inspect.signature(type(loss)).parameters[key].default
        assert default == getattr(settings, key), key
    assert options(configuration.Loss).keys() == {"name"}.union(*(entry.keys for entry in LOSSES.values()))


@pytest.mark.parametrize(
    "words, says",
    [
        (["loss.groups=2"], "loss.groups: 2 has no effect with loss.name=intl; it belongs to cw_rgp"),
        (["loss.name=barlow_twins", "loss.axis=batch"], "loss.axis: .* it belongs to intl and spectral"),
        (["loss.name=cw_rgp"], "model.ema: loss.name=cw_rgp has no EMA target; set model.ema=false"),
        (["loss.name=vicreg"], "one of intl, cw_rgp, barlow_twins, spectral"),
    ],
)
def test_keys_that_the_loss_does_not_read_are_refused(words, says):
    with pytest.raises(UserError, match=says):
        configuration.load(None, words)


def test_a_spectral_transformation_may_have_the_ema_target():
    assert configuration.load(None, ["loss.name=spectral"]).model.ema


@pytest.mark.parametrize(
    "keys, says",
    [
        ({"loss.w_size": 6}, "loss.w_size to a divisor of 16"),
        ({"loss.groups": 16}, "loss.w_size to 2 or less"),
        ({"loss.groups": 3}, "loss.groups to a divisor of 32"),
    ],
)
def test_what_cannot_be_whitened_is_refused_before_the_first_step(keys, says):
    with pytest.raises(UserError, match=says):
        training_step(**{**CW_RGP, **keys})
