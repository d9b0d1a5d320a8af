"""A detector learnt by two ranks is the one that a single process learns, and every image is tested once."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from fastintl.detection.config import DetectionConfig, load
from fastintl.detection.datasets import read_sets
from fastintl.detection.inference import detect
from fastintl.detection.loader import TrainingLoader
from fastintl.detection.training_step import DetectionStep
from fastintl.distributed import World
from fastintl.network.batchnorm import SyncBatchNorm
from fastintl.network.model import build_backbone
from tests.helpers.ddp import run_ranks
from tests.helpers.detecting import words
from tests.helpers.training import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


def brief_config(shapes: Path) -> DetectionConfig:
    keys = [word for word in words(shapes, "coco", Path("unused")) if "=" in word]
    # All proposals are regions to learn from: which ones come first is a matter of rounding.
    everything = ("model.proposals_train=[600,600]", "model.rois=4000")
    place = f"data.root={shapes / 'coco'}"
    return load(ROOT / "rcfgs/detection/coco_2x.yaml", [*keys, place, "train.batch_size=4", *everything])


def trained(config: DetectionConfig, world: World, batches: list) -> DetectionStep:
    torch.manual_seed(0)
    step = DetectionStep(build_backbone("resnet8", zero_init_residual=False), 3, config, world)
    step.network.rpn.nms_thresh = 1.0
    for number, batch in enumerate(batches):
        step(batch, number + 10)
    return step


def first_batches(config: DetectionConfig, rank: int = 0, world_size: int = 1) -> list:
    train, _ = read_sets(config)
    batches = TrainingLoader(train, config.views, True, 4, 0, rank, world_size, threads=1).batches()
    return [next(batches) for _ in range(2)]


def on_a_rank(shapes: str):
    rank = dist.get_rank()
    config = brief_config(Path(shapes))
    cpu = torch.device("cpu")
    # Both are rank 0 to the sampling, and see the same images.
    alike = trained(config, World(0, 2, 0, cpu), first_batches(config)[:1]).network.state_dict()
    world = World(rank, 2, rank, cpu)
    shared = trained(config, world, first_batches(config, rank, 2))
    _, test = read_sets(config)
    found = detect(shared.network, test, world, torch.float32, 1)
    return alike, shared.network.state_dict(), found, norm_of_uneven_shares(rank)


def shares() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 4, 3, 3, generator=generator) * 2 + 3 for count in (5, 2)]


def norm_of_uneven_shares(rank: int):
    x = shares()[rank].requires_grad_()
    norm = SyncBatchNorm.like(torch.nn.BatchNorm2d(4))
    y = norm(x)
    y.pow(3).sum().backward()
    return y.detach(), x.grad


def test_two_ranks(few_shapes):
    config = brief_config(few_shapes)
    alone = World(0, 1, 0, torch.device("cpu"))
    start, one = (trained(config, alone, batches).network for batches in ([], first_batches(config)[:1]))
    learnt = dict(start.named_parameters())
    ranks = run_ranks(on_a_rank, str(few_shapes))
    for alike, *_ in ranks:  # the same images on both ranks are those images once
        for name, end in one.named_parameters():
            # A region that overlaps an object by just a half may be its or not, by rounding.
            assert (alike[name] - end).norm() <= 0.02 * (end - learnt[name]).norm() + 1e-6, name
    (_, state, found, _), (_, other, nothing, _) = ranks
    assert all(torch.equal(state[name], other[name]) for name in learnt) and nothing == []
    # Every image is tested once, in order, as by one process.
    step = trained(config, alone, [])
    step.network.load_state_dict(state)
    _, test = read_sets(config)
    whole = detect(step.network, test, alone, torch.float32, 1)
    assert [d["image_id"] for d in found] == [d["image_id"] for d in whole] and len(whole) > 0
    assert np.allclose([d["score"] for d in found], [d["score"] for d in whole], atol=1e-5)
    check_uneven_norm([rank[3] for rank in ranks])


def check_uneven_norm(found: list) -> None:
    """Each rank counts alike, whatever its share: the mean of the ranks' moments, by autograd in float64."""
    xs = [x.double().requires_grad_() for x in shares()]
    mean = sum(x.mean((0, 2, 3)) for x in xs) / 2
    square = sum(x.square().mean((0, 2, 3)) for x in xs) / 2
    scale = (square - mean.square() + 1e-5).rsqrt()
    ys = [(x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) for x in xs]
    sum(y.pow(3).sum() for y in ys).backward()
    for x, y, (theirs, gradient) in zip(xs, ys, found, strict=True):
        torch.testing.assert_close(theirs.double(), y.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient.double(), x.grad, rtol=1e-4, atol=1e-4)
