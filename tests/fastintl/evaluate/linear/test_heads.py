"""Linear heads: one among many is what it is alone, and what torch.optim makes of a plain nn.Linear."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastintl.evaluate.accuracy import Accuracy
from fastintl.evaluate.features import Features
from fastintl.evaluate.linear import cpu_loops
from fastintl.evaluate.linear.heads import HeadAdam, LinearHeads
from fastintl.evaluate.linear.protocols import CW_RGP, IMAGENET, SMALL, sweep
from fastintl.evaluate.linear.training import _parts, accuracy_on_features, train_on_features
from loaders import UserError
from loaders.order import permutation

CLASSES, DIM, COUNT = 7, 24, 330  # batches of 100 leave a last one of 30


@pytest.fixture(scope="module")
def features() -> Features:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % CLASSES
    means = torch.randn(CLASSES, DIM, generator=generator)
    noise = torch.randn(COUNT, DIM, generator=generator)
    return Features(0.4 * means[labels] + noise, labels, torch.arange(COUNT))


def short(protocol, **changes):
    return replace(protocol, epochs=10, batch_size=100, **changes)


GRIDS = {
    "adam": short(SMALL, lr=(1e-3, 1e-2, 0.1), weight_decay=(0.0, 1e-2)),
    "sgd": short(IMAGENET, lr=(0.05, 0.4, 1.6), weight_decay=(0.0, 1e-3)),
    "lars": short(CW_RGP, lr=(0.1, 10.0, 100.0), weight_decay=(0.0, 1e-3)),
    "larc": short(CW_RGP, optimizer="larc", lr=(0.1, 10.0, 100.0), weight_decay=(0.0, 1e-3)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_head_of_a_sweep_is_the_head_trained_alone(features, name):
    protocol = GRIDS[name]
    together = train_on_features(features, CLASSES, protocol, seed=3)
    assert len(together) == len(protocol.grid) == 6
    for i, (lr, weight_decay) in enumerate(protocol.grid):
        alone = replace(protocol, lr=(lr,), weight_decay=(weight_decay,))
        head = train_on_features(features, CLASSES, alone, seed=3)
        torch.testing.assert_close(together.weight[i], head.weight[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.bias[i], head.bias[0], rtol=1e-4, atol=1e-5)
    assert (together.weight[0] - together.weight[-1]).abs().max() > 1e-3  # the grid's corners do differ


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_that_share_the_heads_train_the_same(features, threads):
    protocol, before = GRIDS["adam"], torch.get_num_threads()
    alone = [replace(protocol, lr=(lr,), weight_decay=(decay,)) for lr, decay in protocol.grid]
    expected = [train_on_features(features, CLASSES, one, seed=3) for one in alone]
    epochs = []
    torch.set_num_threads(threads)
    try:
        heads = train_on_features(features, CLASSES, protocol, seed=3, on_epoch=lambda: epochs.append(None))
        assert torch.get_num_threads() == threads and len(epochs) == protocol.epochs
    finally:
        torch.set_num_threads(before)
    for i, head in enumerate(expected):
        torch.testing.assert_close(heads.weight[i], head.weight[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(heads.bias[i], head.bias[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 7, 40])
@pytest.mark.parametrize("threads", [1, 2, 3, 32, 64])
def test_each_head_is_in_one_part_and_no_other_number_of_parts_is_done_sooner(heads, threads):
    parts = _parts(heads, threads)
    assert [i for part in parts for i in range(heads)[part]] == list(range(heads))

    def heads_a_thread(parts: int) -> float:
        return max(len(x) for x in np.array_split(range(heads), parts)) / (threads // parts)

    largest = max(len(range(heads)[part]) for part in parts) / (threads // len(parts))
    assert largest == min(heads_a_thread(count) for count in range(1, min(heads, threads) + 1))


@pytest.mark.parametrize("samples", [1, 255, 256, 600])
def test_the_errors_of_a_cpu_are_the_gradients_that_torch_finds(samples):
    generator = torch.Generator().manual_seed(samples)
    spread = torch.tensor([0.1, 5.0, 300.0]).view(3, 1, 1)  # of the last, most are zero in float32
    scores = (spread * torch.randn(3, CLASSES, samples, generator=generator)).double().requires_grad_()
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    F.cross_entropy(scores.transpose(1, 2).flatten(0, 1), labels.repeat(3), reduction="sum").backward()
    found, sums = scores.detach().float(), torch.full((3, CLASSES), torch.nan)
    cpu_loops.errors(found.numpy(), labels.numpy(), sums.numpy())
    torch.testing.assert_close(found.double(), scores.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sums.double(), scores.grad.sum(2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_score_that_is_no_number_makes_its_samples_errors_none(bad):
    scores, sums = torch.zeros(1, CLASSES, 5), torch.empty(1, CLASSES)
    scores[0, 2, 3] = bad
    cpu_loops.errors(scores.numpy(), np.zeros(5, np.int64), sums.numpy())
    assert scores[:, :, 3].isnan().all() and scores[:, :, :3].isfinite().all() and sums.isnan().all()


def test_losses_are_those_of_torch_also_where_a_softmax_is_zero(features):
    heads = LinearHeads.start(3, CLASSES, DIM, "normal", seed=1)
    heads.weight[1] *= 1e5
    heads.weight[2, 0] += 1
    x, labels, loss_H = features.features[:50], features.labels[:50], torch.zeros(3)
    gradients = [g.clone() for g in heads.gradients(x, labels, 50, loss_H)]
    for head in range(3):
        layer = nn.Linear(DIM, CLASSES).double()
        layer.weight.data, layer.bias.data = heads.weight[head].double(), heads.bias[head].double()
        loss = F.cross_entropy(layer(x.double()), labels)
        loss.backward()
        assert loss_H[head] == pytest.approx(loss.item(), rel=1e-5)
        for mine, theirs in zip(gradients, (layer.weight.grad, layer.bias.grad), strict=True):
            torch.testing.assert_close(mine[head].double(), theirs, rtol=1e-4, atol=1e-5)


def test_the_loop_of_a_cpu_moves_as_torchs_operations_do():
    generator = torch.Generator().manual_seed(0)
    lr, weight_decay = torch.tensor([1e-3, 0.1, 1.0]), torch.tensor([0.0, 1e-3, 0.1])
    pair = [HeadAdam(LinearHeads.start(3, CLASSES, DIM, "uniform"), lr, weight_decay) for _ in range(2)]
    for _ in range(20):
        gradients = [torch.randn(p.shape, generator=generator) for p in pair[0].parameters]
        for adam, update in zip(pair, ("update", "update_on_cpu"), strict=True):
            adam.steps += 1
            columns = adam.parameters, [g.clone() for g in gradients], adam.means, adam.squares
            for parameter in zip(*columns, strict=True):
                getattr(adam, update)(*parameter, 0.7)
    for mine, theirs in zip(pair[1].parameters, pair[0].parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def reference(features: Features, protocol, move, dtype=torch.float64) -> nn.Linear:
    """The same training spelt out with a plain nn.Linear; ``move(layer, epoch)`` makes the step."""
    start = LinearHeads.start(1, CLASSES, DIM, protocol.init, seed=3)
    layer = nn.Linear(DIM, CLASSES).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(start.weight[0])
        layer.bias.copy_(start.bias[0])
    for epoch in range(protocol.epochs):
        order = torch.from_numpy(permutation(COUNT, 3, epoch))
        for batch in order.split(protocol.batch_size):
            layer.zero_grad()
            F.cross_entropy(layer(features.features[batch].to(dtype)), features.labels[batch]).backward()
            move(layer, epoch)
    return layer


def assert_same(heads: LinearHeads, layer: nn.Linear) -> None:
    torch.testing.assert_close(heads.weight[0].double(), layer.weight.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(heads.bias[0].double(), layer.bias.detach(), rtol=1e-3, atol=1e-5)


def test_a_head_moves_as_under_torchs_adam(features):
    protocol, optimizer = short(SMALL, weight_decay=(1e-3,)), None

    def move(layer, epoch):
        nonlocal optimizer
        optimizer = optimizer or torch.optim.Adam(layer.parameters(), weight_decay=1e-3)
        optimizer.param_groups[0]["lr"] = 1e-2 * 10 ** (-4 * epoch / 10)
        optimizer.step()

    assert_same(train_on_features(features, CLASSES, protocol, seed=3), reference(features, protocol, move))


def test_a_head_moves_as_under_torchs_sgd_with_steps_at_60_and_80_per_cent(features):
    protocol, optimizer = short(IMAGENET, weight_decay=(1e-3,)), None

    def move(layer, epoch):
        nonlocal optimizer
        optimizer = optimizer or torch.optim.SGD(layer.parameters(), momentum=0.9, weight_decay=1e-3)
        optimizer.param_groups[0]["lr"] = 0.4 * 100 / 256 * (1 if epoch < 6 else 0.1 if epoch < 8 else 0.01)
        optimizer.step()

    assert_same(train_on_features(features, CLASSES, protocol, seed=3), reference(features, protocol, move))


@pytest.mark.parametrize("clip", [False, True])
def test_a_head_moves_as_the_formula_of_lars_says(features, clip):
    """apex's LARC around torch's SGD, written down from its documentation; the clip bites at a low rate."""
    base = 1e-4 if clip else 10.0
    protocol = short(CW_RGP, optimizer="larc" if clip else "lars", lr=(base,), weight_decay=(1e-3,))
    velocities, clipped = {}, []

    def move(layer, epoch):
        lr = base * 100 / 256 * 0.5 * (1 + np.cos(np.pi * epoch / 10))
        for name, parameter in layer.named_parameters():
            w, g = parameter.detach().numpy(), parameter.grad.numpy()
            local = 1.0
            if np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
                local = 0.001 * np.linalg.norm(w) / (np.linalg.norm(g) + 1e-3 * np.linalg.norm(w) + 1e-8)
                if clip:
                    clipped.append(local > lr)
                    local = min(local / lr, 1)
            velocities[name] = 0.9 * velocities.get(name, 0) + local * (g + 1e-3 * w)
            w -= lr * velocities[name]

    assert_same(train_on_features(features, CLASSES, protocol, seed=3), reference(features, protocol, move))
    assert not clip or 0 < sum(clipped) < len(clipped)


def test_top1_and_top5_are_those_of_a_sort(features):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (3, 9, 250)).astype(np.float32)  # few values, so many ties
    labels = rng.integers(0, 9, 250)
    counted = Accuracy(3)
    for part in (slice(0, 100), slice(100, 243), slice(243, 250)):
        counted.add(torch.from_numpy(scores[:, :, part]), torch.from_numpy(labels[part]))
    ranking = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 5):
        expected = (ranking[:, :k] == labels).any(1).mean(1)
        assert counted.top()[f"top{k}"] == pytest.approx(expected.tolist(), abs=1e-12)


def test_scores_that_are_no_numbers_are_never_right():
    counted = Accuracy(1)
    counted.add(torch.full((1, 3, 4), torch.nan), torch.tensor([0, 1, 2, 0]))
    assert counted.top() == {"top1": [0.0], "top5": [0.0]}


def test_training_draws_nothing_from_the_global_generators(features):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    accuracy_on_features(train_on_features(features, CLASSES, GRIDS["sgd"]), features)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_sweep_is_forty_heads_and_holds_its_protocol():
    for protocol in (SMALL, IMAGENET, CW_RGP):
        grid = sweep(protocol).grid
        assert len(grid) == len(set(grid)) == 40 and protocol.grid[0] in grid


@pytest.mark.parametrize(
    ("labels", "words"), [([0, 1, 7], "label 7"), ([0, -1, 1], "without a label"), ([], "nothing to learn")]
)
def test_labels_that_are_no_classes_are_refused(labels, words):
    labels = torch.tensor(labels, dtype=torch.int64)
    bad = Features(torch.zeros(len(labels), DIM), labels, torch.arange(len(labels)))
    with pytest.raises(UserError, match=words):
        train_on_features(bad, CLASSES, SMALL)
    with pytest.raises(UserError, match=words):
        accuracy_on_features(LinearHeads.start(1, CLASSES, DIM, "normal"), bad)


def test_features_that_are_no_numbers_are_refused():
    bad = Features(torch.full((3, DIM), torch.nan), torch.tensor([0, 1, 2]), torch.arange(3))
    with pytest.raises(UserError, match="NaN"):
        train_on_features(bad, CLASSES, SMALL)
