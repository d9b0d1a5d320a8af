"""Networks of timm, of torchvision and of one's own: what they give, what is refused, and how they train.

timm's ``test_`` networks are miniatures of its families, for tests.
"""

import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fastintl import INTLLoss
from fastintl.config import from_dict
from fastintl.distributed import World
from fastintl.distributed.collectives import data_parallel, gather_embeddings
from fastintl.network import lockstep
from fastintl.network.batchnorm import convert_batchnorm
from fastintl.network.model import Encoder, JointEmbedding, build_backbone, build_projector
from fastintl.training.step import TrainingStep
from loaders.errors import UserError
from tests.helpers.ddp import run_ranks

SIZES = (32, 32, 48)
BATCH = 8
FAMILIES = ("timm:test_efficientnet", "timm:test_resnet", "timm:test_vit", "timm:test_convnext")


def views(batch=BATCH, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, size, size, generator=generator, dtype=dtype) for size in SIZES]


def joint(backbone, with_target=True):
    torch.manual_seed(2)
    projector = build_projector(backbone.feature_dim, (32, 24))
    if not lockstep.can_run(backbone):
        backbone = convert_batchnorm(backbone)
    return JointEmbedding(Encoder(backbone, projector), with_target)


def one_step(model, share=slice(None)):
    """Loss, gradients and buffers after a step on a share of the batch."""
    world = World(0, dist.get_world_size() if dist.is_initialized() else 1, 0, torch.device("cpu"))
    dtype = next(model.parameters()).dtype
    parallel = data_parallel(model, world)
    online, target = parallel([view[share] for view in views(dtype=dtype)])
    loss = INTLLoss()(*gather_embeddings(online, target))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, dict(model.named_buffers())


@pytest.mark.parametrize("with_target", [False, True])
def test_timms_resnet18_and_ours_have_one_loss_and_one_gradient(with_target):
    torch.manual_seed(0)
    ours, theirs = build_backbone("resnet18", zero_init_residual=False), build_backbone("timm:resnet18")
    theirs.load_state_dict(ours.state_dict())
    assert lockstep.can_run(ours) and not lockstep.can_run(theirs)
    found = [one_step(joint(backbone.double(), with_target).double()) for backbone in (ours, theirs)]
    (loss, gradients, buffers), (their_loss, their_gradients, their_buffers) = found
    assert their_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert their_gradients.keys() == gradients.keys() and their_buffers.keys() == buffers.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(their_gradients[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    for name, buffer in buffers.items():
        torch.testing.assert_close(their_buffers[name], buffer, msg=name)


def family_steps():
    n = BATCH // (dist.get_world_size() if dist.is_initialized() else 1)
    rank = dist.get_rank() if dist.is_initialized() else 0
    found = {}
    for name in FAMILIES:
        torch.manual_seed(0)
        backbone = build_backbone(name, sizes=SIZES).double()
        found[name] = one_step(joint(backbone).double(), slice(rank * n, (rank + 1) * n))
    return found


@pytest.fixture(scope="module")
def two_ranks():
    """What two ranks find, for the tests below: starting processes is what costs here."""
    return run_ranks(everything_on_a_rank)


def everything_on_a_rank():
    return family_steps(), refused()


def test_two_ranks_equal_one_process(two_ranks):
    alone = family_steps()
    for rank, _ in two_ranks:
        for name, (loss, gradients, buffers) in alone.items():
            their_loss, their_gradients, their_buffers = rank[name]
            assert their_loss.item() == pytest.approx(loss.item(), rel=1e-5), name
            scale = torch.cat([g.flatten() for g in gradients.values()]).norm()
            for key, gradient in gradients.items():
                error = (their_gradients[key] - gradient).norm()
                assert error <= 1e-5 * gradient.norm() + 1e-6 * scale, (name, key)
            for key, buffer in buffers.items():
                torch.testing.assert_close(their_buffers[key], buffer, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize(
    "name, sizes, channels",
    [
        ("timm:resnet18", (), 512),
        ("timm:vit_tiny_patch16_224,patch_size=8,depth=1", (24, 40, 64), 192),
        ("timm:mobilenetv3_small_050", (32,), 1024),
        ("torchvision:squeezenet1_0", (64,), 512),
        ("torchvision:mobilenet_v3_small", (32,), 1024),
        ("torchvision:googlenet", (64,), 1024),
        ("torchvision:resnext50_32x4d", (), 2048),
    ],
)
def test_what_a_network_gives_is_found_without_computing(name, sizes, channels):
    backbone = build_backbone(name, sizes=sizes).eval()
    assert (backbone.feature_dim, backbone.arch) == (channels, name)
    assert backbone(torch.randn(1, 3, 64, 64)).shape == (1, channels)


@pytest.mark.parametrize(
    "name, sizes, says",
    [
        ("timm:resnet1", (), "timm:resnet1: timm has no such network; near are resnet18"),
        ("torchvision:resnet1", (), "torchvision:resnet1: torchvision has no such network; near are resnet"),
        ("resnet5O", (), "did you mean 'resnet50'.*timm:NAME, torchvision:NAME or package.module:function"),
        ("timm:test_vit,patch_size=8", (20,), "does not take images of 20 x 20 pixels .*divisible by patch size"),
        ("torchvision:vit_b_16", (96,), "does not take images of 96 x 96 pixels .*Expected 224 but got 96"),
        ("timm:resnet18,width=3", (), "timm:resnet18,width=3 cannot be built: TypeError"),
        ("timm:resnet18,checkpoint_path=x.pt", (), "the option checkpoint_path is not for a name to set"),
        ("nowhere.nets:build", (), "No module named 'nowhere'; start in the folder that holds nowhere, or install it"),
        ("math:pi", (), "math has no function pi"),
        ("math:sqrt", (), "TypeError"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(name, sizes, says):
    with pytest.raises(UserError, match=says):
        build_backbone(name, sizes=sizes)


def test_a_missing_timm_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="networks of timm need a package: pip install timm"):
        build_backbone("timm:resnet18")


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.unread = nn.Linear(2, 2)

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3))

def net(width=8):
    return Net(width)

def looks():
    net = Net(6)
    net.register_forward_pre_hook(lambda module, inputs: print(end="" if inputs[0].max().item() else ""))
    return net

def maps():
    return nn.Conv2d(3, 4, 3)

def fails():
    raise RuntimeError("no weights today")
"""


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine_for_a_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert build_backbone("mine_for_a_test:net").feature_dim == 8
    backbone = build_backbone("mine_for_a_test:net,width=12", sizes=(16, 24))
    assert (
        backbone.feature_dim == 12 and not backbone.unread.weight.requires_grad and backbone.conv.weight.requires_grad
    )
    assert build_backbone("mine_for_a_test:looks").feature_dim == 6
    for name, says in (("maps", "gives .2, 4, "), ("fails", "no weights today .*mine_for_a_test.py, line")):
        with pytest.raises(UserError, match=says):
            build_backbone(f"mine_for_a_test:{name}")


def test_ranks_refuse_a_batchnorm_whose_statistics_they_cannot_share(two_ranks):
    assert all("train on one rank" in sentence for _, sentence in two_ranks)


def refused():
    with pytest.raises(UserError) as caught:
        convert_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)))
    return str(caught.value)


def settings(**model):
    return from_dict(
        {
            "model": {"projector": (32, 24), **model},
            "crops": {"sizes": SIZES, "scales": [(0.5, 1)] * 3, "blur": [0] * 3, "solarize": [0] * 3},
            "eval": {"resize": 32, "size": 32},
            "train": {"batch_size": BATCH, "device": "cpu", "epochs": 1},
        }
    )


def test_dropped_paths_are_drawn_again_by_a_step_that_is_repeated():
    config = settings(arch="timm:test_vit,drop_path_rate=0.5,proj_drop_rate=0.5")
    world = World(0, 1, 0, torch.device("cpu"))
    first = TrainingStep(config, world, 4)
    first(views(), 0)
    saved = {name: value.clone() for name, value in first.model.state_dict().items()}
    optimizer = first.optimizer.state_dict()
    going_on = first(views(), 1)
    torch.rand(7)
    second = TrainingStep(config, world, 4)
    second.model.load_state_dict(saved)
    second.optimizer.load_state_dict(optimizer)
    torch.rand(3)
    assert torch.equal(second(views(), 1), going_on)
    second.model.load_state_dict(saved)
    assert not torch.equal(second(views(), 2), going_on)


@pytest.mark.parametrize("recompute", ["off", "on"])
def test_a_view_that_runs_again_meets_the_same_random_numbers(recompute):
    """And BatchNorm takes it up into its running statistics once."""
    found = []
    for value in ("off", recompute):
        config = settings(arch="timm:test_efficientnet,drop_rate=0.2,drop_path_rate=0.3")
        step = TrainingStep(config, World(0, 1, 0, torch.device("cpu")), 4)
        step.model.regions = type(step.model.regions)(recompute=value == "on")
        step(views(), 0)
        found.append(step.model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=name)
