"""A loss that is no longer a number: found at its step, kept from weights and checkpoints, and explained."""

import json
import math

import pytest
import torch

from fastintl import config as configuration
from fastintl.distributed import World
from fastintl.distributed.agreement import Agreement
from fastintl.runs.loss_guard import BrokenStep
from fastintl.training.step import TrainingStep
from fastintl.training.step_guard import StepGuard, statistics
from loaders import UserError
from loaders.order import permutation
from tests.helpers import training

ALONE = World(0, 1, 0, torch.device("cpu"))


def small_config(**changes) -> configuration.Config:
    keys = {**training.SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return configuration.load(None, [f"{key}={value}" for key, value in keys.items()])


def build(**changes) -> tuple[TrainingStep, StepGuard]:
    step = TrainingStep(small_config(**changes), ALONE, epoch_steps=6)
    return step, StepGuard(step, Agreement(ALONE))


def views(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (20, 20, 16)
    return [torch.randn(8, 3, s, s, generator=generator).to(memory_format=torch.channels_last) for s in sizes]


def weights(step: TrainingStep) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in step.model.encoder.parameters()])


def state_of(step: TrainingStep) -> dict[str, torch.Tensor]:
    """All numbers that the optimiser keeps."""
    states = step.optimizer.state_dict()["state"]
    return {f"{i} {name}": value.clone() for i, state in states.items() for name, value in state.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lars"])
def test_weights_and_momenta_stay_those_that_the_broken_step_began_with(optimizer):
    step, guard = build(optim__name=optimizer, optim__lr=1e-3)
    for number in range(3):
        guard.see(step(views(number), number))
    before, kept = weights(step), state_of(step)
    bad = views(3)
    bad[1][2, 0, 0, 0] = math.inf
    guard.see(step(bad, 3))
    guard.see(step(views(4), 4))  # a good batch again: nobody has checked yet
    assert guard.is_held() and torch.equal(weights(step), before)
    assert all(torch.equal(value, kept[name]) for name, value in state_of(step).items())
    with pytest.raises(BrokenStep, match="step 4 gave a loss of nan") as broken:
        guard.check(5)
    assert broken.value.number == 3


def test_without_a_broken_step_the_guard_changes_nothing():
    step, guard = build()
    plain = TrainingStep(small_config(), ALONE, epoch_steps=6)
    for number in range(3):
        loss = step(views(number), number)
        guard.see(loss)
        assert torch.equal(loss, plain(views(number), number))
    assert torch.equal(weights(step), weights(plain))
    gradients = torch.cat([p.grad.flatten() for p in step.model.encoder.parameters()]).double()
    reading = guard.reading(3)
    assert reading.loss == loss.item() and not guard.is_held() and guard.reading(3) is None
    assert reading.gradient_norm == pytest.approx(gradients.norm().item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lars"])
def test_steps_that_a_gradient_scaler_skips_are_counted_and_not_fatal(optimizer):
    # A loss far above 2, so that it overflows float32 as well.
    step, guard = build(loss__trade_off=10.0, optim__name=optimizer)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    skipped = 0
    for number in range(12):
        before = weights(step)
        scale = step.scaler.get_scale()
        guard.see(step(views(number), number))
        unchanged = torch.equal(weights(step), before)
        assert unchanged == (step.scaler.get_scale() < scale)  # the scaler's own sign of an overflow
        skipped += unchanged
    assert guard.reading(12).skipped_steps == guard.skipped_steps == skipped
    assert 0 < skipped < 12
    assert weights(step).isfinite().all()
    assert all(value.isfinite().all() for value in state_of(step).values())


def test_gradients_that_no_scale_helps_stop_the_run():
    step, guard = build()
    step.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    guard.see(step(views(0), 0))
    with pytest.raises(UserError, match="whatever their scale.*train.precision=bf16"):
        guard.reading(1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lars"])
def test_the_first_update_after_a_skipped_one_is_that_of_new_momenta(optimizer):
    """torch's fused SGD alone would go on from uninitialised memory."""
    (skipping, guard), (plain, _) = (build(optim__name=optimizer) for _ in range(2))
    guard._held.fill_(1)
    skipping(views(0), 0)
    guard._held.zero_()
    plain.model.load_state_dict(skipping.model.state_dict())
    for step in (skipping, plain):
        step(views(1), 1)
    assert torch.equal(weights(skipping), weights(plain))


def test_statistics_are_over_the_finite_values():
    x = torch.tensor([1.0, 2.0, 6.0, math.nan, -math.inf])
    assert statistics(x) == {
        "values": 5, "nonfinite": 2, "mean": 3.0, "std": pytest.approx(math.sqrt(14 / 3)), "least": 1.0, "most": 6.0
    }  # fmt: skip


def test_a_run_that_breaks_names_step_and_images_and_keeps_its_checkpoint(images, tmp_path):
    # Such a learning rate is harmless in the warm-up's first steps, where it is small.
    changes = {"optim__lr": 1e12, "eval__every": 0, "log__every": 5, "train__save_minutes": 1e-6}
    result = training.train(tmp_path, images, 2, **changes)
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode != 0
    record = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    number = record["step"]
    assert f"step {number} gave a loss of " in sentence and "nonfinite.json" in sentence
    assert not math.isfinite(float(record["loss"]) + float(record["gradient_norm"]))
    epoch, batch = divmod(number - 1, 6)
    assert (record["epoch"], record["batch"]) == (epoch, batch)
    expected = permutation(48, 0, epoch)[8 * batch : 8 * batch + 8].tolist()
    assert [sample["id"] for sample in record["samples"]] == expected
    assert all(sample["name"].endswith(".jpg") for sample in record["samples"])
    assert set(record["embeddings"]) == {"view 0", "view 1", "view 2"}
    assert all(values["nonfinite"] == 0 for values in record["parameters"].values())  # held
    assert any(values["nonfinite"] for values in record["gradients"].values())
    assert training.saved_step(tmp_path) == number - 1  # the last good one
    saved = training.last_state(tmp_path)["model"]
    assert all(value.isfinite().all() for value in saved.values())
