"""The authors' pretraining programs on given batches: their first steps, and their schedules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tools.fidelity.comparison import distances
from tools.fidelity.theirs import programs, stand_ins
from tools.fidelity.theirs.programs import Followed


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """The first steps of a program, one batch an epoch, and the same again with other roundings.

    Args:
        job: ``script`` and ``arguments``; ``batches``, of V views (n, 3, s, s) each; ``orders``, permutations (n,) of
            the samples; ``partitions``: where the loss draws some, for every step ``samples`` (T, n) and ``channels``
            (V, T, S, d) as ``CWRGPLoss`` has them; ``probe`` (b, 3, s, s), images whose features are wanted.

    Returns:
        ``start`` (weights), and of every step ``loss``, ``lr``, ``momentum`` and ``weights``; the same again with the
        samples of each batch in other orders, ``reordered``, and with the images in torch's memory format
        channels_last, ``channels_last``: the ``loss`` and the ``distance`` of the weights to the first ones; the
        ``features`` of ``probe`` after the last step, in evaluation mode. Of a program that saves after every epoch
        the last file of the first run is left as ``saved.pth.tar``.
    """
    stand_ins.install()
    program = programs.load(job["script"])
    first = _followed(program, job)
    for file in Path("ckpt").glob("*.pth.tar"):
        file.rename("saved.pth.tar")  # before the next run writes another
    backbone = getattr(first.model, "backbone", None) or first.model.model
    with torch.no_grad():
        features = backbone.eval()(job["probe"])

    def again(**options: Any) -> dict[str, list[float]]:
        other = _followed(program, job, start=first.start, **options)
        return {"loss": other.loss, "distance": distances(other.weights, first.weights, first.start)}

    return {
        **{name: getattr(first, name) for name in ("start", "loss", "lr", "momentum", "weights")},
        "reordered": [again(order=order) for order in job["orders"]],
        "channels_last": again(memory=torch.channels_last),
        "features": features,
    }


def schedules(job: dict[str, Any]) -> dict[str, Any]:
    """The learning rate and the target's momentum of every step of whole runs, with epochs of ``epoch_steps`` steps.

    Args:
        job: ``script``, ``arguments`` (a list for each run) and ``epoch_steps``.

    Returns:
        ``runs``: for each its ``lr`` and ``momentum``, lists over the steps.
    """
    stand_ins.install()
    program, runs = programs.load(job["script"]), []
    for arguments in job["arguments"]:
        with Followed(keep_weights=False) as run:
            _give(
                program, [(torch.zeros(1), None)] * job["epoch_steps"], lambda cfg, run=run: run.watch(programs.Tiny())
            )
            programs.run(program, arguments)
        runs.append({"lr": run.lr, "momentum": run.momentum})
    return {"runs": runs}


def _followed(
    program: ModuleType,
    job: dict[str, Any],
    start: dict[str, Tensor] | None = None,
    order: Tensor | None = None,
    memory: torch.memory_format = torch.contiguous_format,
) -> Followed:
    """One run of the program over the batches, from its own start or a given one."""
    batches = [
        [(view if order is None else view[order]).to(memory_format=memory) for view in b] for b in job["batches"]
    ]
    with Followed() as run:

        def build(cfg: Any) -> nn.Module:
            model = importlib.import_module("methods").get_method(cfg.method)(cfg)
            if start is not None:
                model.load_state_dict(start)
            return run.watch(model.to(memory_format=memory))

        _give(program, _OneAnEpoch(batches), build)
        stand_ins.give_permutations(one for drawn in job["partitions"] for one in _permutations(**drawn, order=order))
        torch.manual_seed(0)
        programs.run(program, job["arguments"])
    return run


def _give(program: ModuleType, loader: Any, build: Callable[[Any], nn.Module]) -> None:
    """The program's next run takes its batches and its model from here."""
    stand_ins.give_loaders(loader)
    if hasattr(program, "get_ds"):  # CW-RGP's for small data
        program.get_ds = lambda name: lambda *options: SimpleNamespace(train=loader, clf=None, test=None)
    program.get_method = lambda name: build


class _OneAnEpoch:
    """A loader of one batch, in every epoch another."""

    def __init__(self, batches: Sequence[list[Tensor]]) -> None:
        self._turns = iter(batches)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[list[Tensor], None]]:
        yield next(self._turns), None


def _permutations(samples: Tensor, channels: Tensor, order: Tensor | None) -> Iterator[Tensor]:
    """The permutations that CW-RGP's forward pass draws, in its order: a cut of the samples, then for each of its
    sub-batches one of the channels a view.

    Reordered samples are cut into the same sub-batches, each in another order too.
    """
    for cut, cut_samples in enumerate(samples):
        sub_batches = cut_samples.view(channels.shape[2], -1)
        if order is not None:
            sub_batches = order.argsort()[sub_batches].sort(dim=1).values
        yield sub_batches.flatten()
        for sub_batch in range(channels.shape[2]):
            yield from channels[:, cut, sub_batch]
