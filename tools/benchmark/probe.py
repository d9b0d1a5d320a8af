"""Linear probes on cached features: a sweep beside one head, its heads one after another, and others' ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from fastintl.evaluate.features import Features
from fastintl.evaluate.linear.protocols import SMALL, HeadProtocol, sweep
from fastintl.evaluate.linear.training import train_on_features
from loaders.order import permutation
from tools.benchmark.turns import Contender, able

ONE, SWEEP, TURNS = "one head", "40 heads at once", "40 heads one after another"
PLAIN, SCIKIT = "one nn.Linear under torch.optim.Adam", "scikit-learn, L-BFGS"
PRODUCTS = "the products of 40 heads alone"


def random_features(samples: int, channels: int, classes: int, device: torch.device) -> Features:
    """Gaussian classes that overlap."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    means = torch.randn(classes, channels, generator=generator)
    noise = torch.randn(samples, channels, generator=generator)
    return Features((0.2 * means[labels] + noise).to(device), labels.to(device), torch.arange(samples))


def contenders(train: Features, classes: int, epochs: int) -> list[Contender]:
    """Who is timed, all for the same epochs in the same batches but scikit-learn, which runs until it is done."""
    one = replace(SMALL, epochs=epochs)
    forty = sweep(one)
    alone = [replace(one, lr=(lr,), weight_decay=(decay,)) for lr, decay in forty.grid]
    device = train.features.device

    def heads(protocol: HeadProtocol) -> None:
        train_on_features(train, classes, protocol, device=device)

    return [
        Contender(ONE, lambda: heads(one)),
        Contender(SWEEP, lambda: heads(forty)),
        Contender(TURNS, lambda: [heads(protocol) for protocol in alone]),
        Contender(PRODUCTS, lambda: _products(train, classes, forty)),
        Contender(PLAIN, lambda: _plain(train, classes, one)),
        _scikit(train),
    ]


def warm_up(contenders: Sequence[Contender]) -> None:
    """Runs each once but the 40 in turn, which do what one head does."""
    for contender in able(contenders):
        if contender.name != TURNS:
            contender.run()


def ratios(contenders: Sequence[Contender]) -> dict[str, float]:
    """Medians over each other, by name."""
    median = {contender.name: contender.median for contender in contenders if contender.median}
    pairs = ((SWEEP, ONE), (TURNS, SWEEP), (PRODUCTS, ONE), (SWEEP, PRODUCTS), (PLAIN, ONE), (SCIKIT, SWEEP))
    return {f"{a} / {b}": median[a] / median[b] for a, b in pairs if a in median and b in median}


def _products(train: Features, classes: int, protocol: HeadProtocol) -> None:
    """What no way of training in float32 can do without: scores and gradients as bare matrix products."""
    rows = classes * len(protocol.grid)
    weight = torch.zeros(rows, train.features.shape[1], device=train.features.device)
    for _ in range(protocol.epochs):
        for x in train.features.split(protocol.batch_size):
            scores = weight @ x.T
            scores @ x


def _plain(train: Features, classes: int, protocol: HeadProtocol) -> None:
    """What W-MSE's and CW-RGP's scripts do."""
    layer = nn.Linear(train.features.shape[1], classes, device=train.features.device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=protocol.lr[0], weight_decay=protocol.weight_decay[0])
    for epoch in range(protocol.epochs):
        optimizer.param_groups[0]["lr"] = protocol.lr[0] * protocol.factor(epoch)
        order = torch.from_numpy(permutation(len(train.labels), 0, epoch)).to(train.features.device)
        for batch in order.split(protocol.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(train.features[batch]), train.labels[batch]).backward()
            optimizer.step()


def _scikit(train: Features) -> Contender:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        return Contender(SCIKIT, None, missing=str(error))
    features, labels = train.features.cpu().numpy(), train.labels.cpu().numpy()
    return Contender(SCIKIT, lambda: LogisticRegression(max_iter=1000).fit(features, labels))
