"""Features: every sample once and in order, on one rank or two, without a trace in the network."""

import pytest
import torch
from torch import nn

from fastintl.evaluate.features import extract
from loaders import CenterCrop, make_loader
from tests.helpers.ddp import run_ranks

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2)).train()


def extract_share(path: str, rank: int, world_size: int):
    loader = make_loader(path, CenterCrop(24, 20), 7, rank=rank, world_size=world_size, threads=1)
    found = extract(network(), loader, CPU)
    loader.close()
    return found.features, found.labels, found.ids


def on_a_rank(path: str):
    return extract_share(path, torch.distributed.get_rank(), torch.distributed.get_world_size())


@pytest.fixture(scope="module")
def alone(images):
    return extract_share(str(images / "val"), 0, 1)


def test_every_sample_once_and_in_order(alone):
    features, labels, ids = alone
    assert features.shape == (15, 16) and features.dtype == torch.float32
    assert ids.tolist() == list(range(15))
    assert labels.tolist() == [i // 5 for i in range(15)]


def test_features_are_those_of_a_plain_forward(images, alone):
    batches = make_loader(images / "val", CenterCrop(24, 20), 15)
    views = next(iter(batches)).views[0]
    with torch.no_grad():
        expected = network().eval()(views).flatten(1)
    torch.testing.assert_close(alone[0], expected)


def test_two_ranks_give_what_one_gives(images, alone):
    for rank in run_ranks(on_a_rank, str(images / "val")):
        for mine, theirs in zip(rank, alone, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_the_network_is_left_as_it_was(images):
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    extract(net, make_loader(images / "val", CenterCrop(24, 20), 7), CPU)
    assert net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
