"""A linear probe and a fine-tuning on two ranks: killed, stopped by signals, or broken on one of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fastintl.distributed import World
from fastintl.evaluate.epoch_loop import EpochLoop
from fastintl.evaluate.finetune import FineTuning
from fastintl.evaluate.linear.probes import FrozenProbe
from loaders import UserError
from tests.helpers.ddp import run_ranks
from tests.helpers.probing import PROTOCOL, TUNING, backbone, random_crops

EPOCHS, STEPS = 3, 6  # 48 images: two batches of 20 an epoch


def trainee(kind: str, world: World):
    network = backbone()
    if kind == "probe":
        return FrozenProbe(network, network.feature_dim, 3, PROTOCOL, world)
    return FineTuning(network, 3, TUNING, world)


class Disturbed:
    """A trainee to which something happens in one step, on one rank."""

    def __init__(self, trainee, here: bool, step: int, happens: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        self.trainee, self.here, self.step, self.happens = trainee, here, step, happens
        self.steps = 0

    def train_step(self, batch, epoch):
        loss = self.trainee.train_step(batch, epoch)
        self.steps += 1
        if self.here and self.steps == self.step:
            changed = self.happens(loss)
            return loss if changed is None else changed
        return loss

    def state_dict(self):
        return self.trainee.state_dict()

    def load_state_dict(self, state):
        self.trainee.load_state_dict(state)


def this_world() -> World:
    rank = dist.get_rank()
    return World(rank, dist.get_world_size(), rank, torch.device("cpu"))


def fit(trained, data: str, folder: Path | None, world: World) -> str:
    """Trains with a save after every step; how that ended."""
    loader = random_crops(Path(data), world)
    loop = EpochLoop(trained, loader, EPOCHS, world, folder, {"seed": 0}, save_minutes=1e-9)
    try:
        loop.fit()
    except SystemExit as end:
        return f"status {end.code} at {loop.step}"
    except UserError as error:
        return str(error)
    finally:
        loop.close()
        loader.close()
    return f"finished at {loop.step}"


def send(number: signal.Signals) -> Callable[[torch.Tensor], None]:
    return lambda loss: os.kill(os.getpid(), number)


def stopped_and_broken(kind: str, data: str, folder: str) -> dict:
    world, found = this_world(), {}
    whole = trainee(kind, world)
    assert fit(whole, data, None, world) == f"finished at {STEPS}"
    for number, rank in ((signal.SIGTERM, 1), (signal.SIGINT, 0)):
        place = Path(folder) / number.name
        ends = [fit(Disturbed(trainee(kind, world), world.rank == rank, 3, send(number)), data, place, world)]
        resumed = trainee(kind, world)
        ends.append(fit(resumed, data, place, world))
        same = all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(resumed), strict=True))
        found[number.name] = (*ends, same)
    broken = Disturbed(trainee(kind, world), world.rank == 1, 4, lambda loss: loss * torch.nan)
    found["broken"] = fit(broken, data, Path(folder) / "broken", world)
    return found


def tensors(trained) -> list[torch.Tensor]:
    def walk(node):
        if isinstance(node, torch.Tensor):
            yield node
        elif isinstance(node, dict | list | tuple):
            for value in node.values() if isinstance(node, dict) else node:
                yield from walk(value)

    return list(walk(trained.state_dict()))


@pytest.mark.parametrize("kind", ["probe", "tuning"])
def test_a_signal_saves_on_both_ranks_and_a_nan_on_one_stops_both_before_anything_is_saved(images, tmp_path, kind):
    first, second = run_ranks(stopped_and_broken, kind, str(images), str(tmp_path))
    for name, status in (("SIGTERM", 75), ("SIGINT", 130)):
        assert first[name] == second[name] == (f"status {status} at 4", f"finished at {STEPS}", True)
    assert first["broken"].startswith("the loss is no longer a number at step 4")
    assert second["broken"] == "status 2 at 4"
    saved = sorted((tmp_path / "broken").glob("step_*.pt"))
    assert saved[-1].name == "step_00000002.pt"
    for path in saved:
        assert all(bool(x.isfinite().all()) for x in torch.load(path, weights_only=True)["trainee"].values() if
                   isinstance(x, torch.Tensor))  # fmt: skip


def killed(kind: str, data: str, folder: str) -> None:
    world = this_world()
    fit(Disturbed(trainee(kind, world), world.rank == 1, 4, send(signal.SIGKILL)), data, Path(folder), world)


def resumed_and_whole(kind: str, data: str, folder: str) -> tuple[str, bool]:
    world = this_world()
    resumed, whole = trainee(kind, world), trainee(kind, world)
    end = fit(resumed, data, Path(folder), world)
    fit(whole, data, None, world)
    return end, all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(resumed), strict=True))


@pytest.mark.parametrize("kind", ["probe", "tuning"])
def test_a_killed_rank_costs_no_more_than_the_steps_since_the_last_save(images, tmp_path, kind):
    with pytest.raises(Exception, match="SIGKILL|Connection|closed"):
        run_ranks(killed, kind, str(images), str(tmp_path))
    saved = sorted(path.name for path in tmp_path.glob("step_*.pt"))
    assert saved[-1] in ("step_00000002.pt", "step_00000003.pt")
    assert run_ranks(resumed_and_whole, kind, str(images), str(tmp_path)) == [(f"finished at {STEPS}", True)] * 2
