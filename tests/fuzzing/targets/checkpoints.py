"""A training's checkpoints, damaged or of another kind: it goes on bit for bit, or ends in one sentence."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fastintl.distributed import World
from fastintl.evaluate.epoch_loop import CONTENT, EpochLoop
from fastintl.evaluate.linear.heads import take_up
from tests.fuzzing import refusals
from tests.fuzzing.targets.beton import changed
from tests.fuzzing.targets.weight_files import _change, _value

WORLD = World(0, 1, 0, torch.device("cpu"))
SETTINGS = {"lr": 0.1, CONTENT: "0" * 64}
_damage = st.one_of(
    st.tuples(st.just("bytes"), st.lists(_change, min_size=1, max_size=3)),
    st.tuples(st.just("content"), _value),
    st.tuples(st.just("entry"), st.tuples(st.sampled_from(["settings", "trainee", "step", "clock"]), _value)),
    st.tuples(st.just("weight"), st.sampled_from(["shape", "kind", "lost"])),
)
examples = st.dictionaries(st.sampled_from(["step_00000004.pt", "step_00000006.pt"]), _damage, max_size=2)


class Trainee:
    """Adds up what it sees."""

    def __init__(self) -> None:
        self.weight = torch.zeros(4)

    def train_step(self, batch: Tensor, epoch: int) -> Tensor:
        self.weight += batch * (1 + epoch)
        return self.weight.sum()

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        take_up(self.weight, state["weight"])


class Numbers:
    """A loader of two batches an epoch."""

    batch_size = 2

    def __len__(self) -> int:
        return 2

    def set_position(self, epoch: int, batch: int) -> None:
        self.position = epoch, batch

    def __iter__(self):
        epoch, batch = self.position
        return (torch.full((4,), 10.0 * epoch + i) for i in range(batch, 2))


def trained(folder: Path, epochs: int) -> Tensor:
    with closing(EpochLoop(Trainee(), Numbers(), epochs, WORLD, folder, SETTINGS)) as loop:
        loop.fit()
        return loop.trainee.weight.clone()


def check(example: dict[str, tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, data in whole().items():
            (folder / name).write_bytes(data)
        for name, (what, change) in example.items():
            (folder / name).write_bytes(_damaged(whole()[name], what, change))
        with refusals():
            assert torch.equal(trained(folder, 5), _expected())


def _damaged(data: bytes, what: str, change: Any) -> bytes:
    if what == "bytes":
        return changed(data, change)
    state = torch.load(io.BytesIO(data), weights_only=True) if what != "content" else change
    if what == "entry":
        state[change[0]] = change[1]
    elif what == "weight":
        weight = state["trainee"].pop("weight")
        if change != "lost":
            state["trainee"]["weight"] = torch.zeros(3) if change == "shape" else weight.tolist()
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@functools.cache
def whole() -> dict[str, bytes]:
    """The checkpoints of three epochs."""
    with tempfile.TemporaryDirectory() as folder:
        trained(Path(folder), 3)
        return {path.name: path.read_bytes() for path in Path(folder).glob("step_*.pt")}


@functools.cache
def _expected() -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        return trained(Path(folder), 5)
