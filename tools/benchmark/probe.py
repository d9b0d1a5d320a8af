"""Seconds to train linear heads on cached features: one, a sweep of 40 at once, the 40 one after another, and others'
ways, on random features.

    python tools/bench.py probe --json probe.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from loaders.errors import UserError

from .contenders import Contender, time_in_turn, timed
from .options import add_timing, require_positive
from .results import print_results, write_result

if TYPE_CHECKING:
    import torch

    from fastintl.evaluate.features import Features
    from fastintl.evaluate.linear.protocols import HeadProtocol

ONE, SWEEP, TURNS = "one head", "40 heads at once", "40 heads one after another"
PLAIN, SCIKIT = "one nn.Linear under torch.optim.Adam", "scikit-learn, L-BFGS"
PRODUCTS = "the products of 40 heads alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing(parser)
    parser.add_argument("--samples", type=int, default=20_000, help="features to learn from (default: 20000)")
    parser.add_argument("--channels", type=int, default=512, help="of a feature (default: 512)")
    parser.add_argument("--classes", type=int, default=10, help="default: 10")
    parser.add_argument("--epochs", type=int, default=2, help="in batches of 1000 (default: 2)")


def run(arguments: argparse.Namespace) -> None:
    import torch
    from rich.table import Table

    shape = require_positive(arguments, "samples", "channels", "classes", "epochs", "rounds")
    if not 1 < arguments.classes <= arguments.samples:
        raise UserError("--classes must be from 2 to --samples")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = random_features(arguments.samples, arguments.channels, arguments.classes, device)
    group = contenders(train, arguments.classes, arguments.epochs)
    time_in_turn(group, arguments.rounds)
    median = {contender.name: contender.median("seconds") for contender in group if contender.median("seconds")}
    pairs = ((SWEEP, ONE), (TURNS, SWEEP), (PRODUCTS, ONE), (SWEEP, PRODUCTS), (PLAIN, ONE), (SCIKIT, SWEEP))
    ratios = {f"{a} / {b}": median[a] / median[b] for a, b in pairs if a in median and b in median}
    size = f"{arguments.samples:,} features of {arguments.channels} channels, {arguments.classes} classes"
    table = Table("training", "median", title=f"{arguments.epochs} epochs of {size}, {device.type}")
    for name, seconds in median.items():
        table.add_row(name, f"{seconds:.3f} s")
    rows = [contender.as_json("seconds", failure="missing") for contender in group]
    write_result(arguments, "probe", **shape, contenders=rows, ratios=ratios)
    print_results([table], group)
    for name, ratio in ratios.items():
        print(f"{name:64} {ratio:8.2f}")


def random_features(samples: int, channels: int, classes: int, device: torch.device) -> Features:
    """Gaussian classes that overlap."""
    import torch

    from fastintl.evaluate.features import Features

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    means = torch.randn(classes, channels, generator=generator)
    noise = torch.randn(samples, channels, generator=generator)
    return Features((0.2 * means[labels] + noise).to(device), labels.to(device), torch.arange(samples))


def contenders(train: Features, classes: int, epochs: int) -> list[Contender]:
    """Who is timed, all for the same epochs in the same batches but scikit-learn, which runs until it is done."""
    import torch

    from fastintl.evaluate.linear.protocols import SMALL, sweep
    from fastintl.evaluate.linear.training import train_on_features

    one = replace(SMALL, epochs=epochs)
    forty = sweep(one)
    alone = [replace(one, lr=(lr,), weight_decay=(decay,)) for lr, decay in forty.grid]
    device = train.features.device
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def heads(*protocols: HeadProtocol) -> None:
        for protocol in protocols:
            train_on_features(train, classes, protocol, device=device)

    def contender(name: str, train: Callable[[], None], warm_up: bool = True) -> Contender:
        def prepare() -> Callable[[], None]:
            if warm_up:
                train()
            return train

        return Contender(name, partial(timed, prepare, wait))

    return [
        contender(ONE, lambda: heads(one)),
        contender(SWEEP, lambda: heads(forty)),
        contender(TURNS, lambda: heads(*alone), warm_up=False),  # they do what one head does
        contender(PRODUCTS, lambda: _products(train, classes, forty)),
        contender(PLAIN, lambda: _plain(train, classes, one)),
        contender(SCIKIT, lambda: _scikit(train)),
    ]


def _products(train: Features, classes: int, protocol: HeadProtocol) -> None:
    """What no way of training in float32 can do without: scores and gradients as bare matrix products."""
    import torch

    rows = classes * len(protocol.grid)
    weight = torch.zeros(rows, train.features.shape[1], device=train.features.device)
    for _ in range(protocol.epochs):
        for x in train.features.split(protocol.batch_size):
            scores = weight @ x.T
            scores @ x


def _plain(train: Features, classes: int, protocol: HeadProtocol) -> None:
    """What W-MSE's and CW-RGP's scripts do."""
    import torch
    from torch import nn

    from loaders.order import permutation

    layer = nn.Linear(train.features.shape[1], classes, device=train.features.device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=protocol.lr[0], weight_decay=protocol.weight_decay[0])
    for epoch in range(protocol.epochs):
        optimizer.param_groups[0]["lr"] = protocol.lr[0] * protocol.factor(epoch)
        order = torch.from_numpy(permutation(len(train.labels), 0, epoch)).to(train.features.device)
        for batch in order.split(protocol.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(train.features[batch]), train.labels[batch]).backward()
            optimizer.step()


def _scikit(train: Features) -> None:
    from sklearn.linear_model import LogisticRegression

    LogisticRegression(max_iter=1000).fit(train.features.cpu().numpy(), train.labels.cpu().numpy())
