import logging
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessRaisedException

from fastintl import INTLLoss
from fastintl.distributed import World, start
from fastintl.distributed.collectives import data_parallel, gather_embeddings, gather_views
from fastintl.distributed.world import has_code_for
from fastintl.losses.barlow_twins import BarlowTwinsLoss
from fastintl.losses.cw_rgp import CWRGPLoss
from fastintl.network import lockstep
from fastintl.network.batchnorm import batch_norm
from fastintl.network.model import Encoder, JointEmbedding, build_backbone, build_projector
from loaders.errors import UserError
from tests.helpers.ddp import free_port, run_ranks

SIZES = (24, 16, 20)  # pixels of the three views
BATCH = 8
CASES = [(axis, with_target) for axis in ("channel", "batch") for with_target in (False, True)]
CASES += [("channel", with_target, "together") for with_target in (False, True)]


def build(with_target, views="apart"):
    torch.manual_seed(0)
    backbone = build_backbone("resnet8", "cifar", zero_init_residual=False)
    model = JointEmbedding(Encoder(backbone, build_projector(128, (32, 24))), with_target, views == "together")
    for p in model.parameters():  # so that the target is not the encoder
        p.data += 0.01 * torch.randn_like(p)
    return model


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 3, s, s, generator=generator) for s in SIZES]


def one_step(share, axis, with_target, views="apart"):
    """Loss, parameter gradients and BatchNorm statistics after one step on this rank's share of the batch."""
    model = build(with_target, views)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    parallel = data_parallel(model, World(0, world_size, 0, torch.device("cpu")))
    online, target = parallel([view[share] for view in images()])
    loss = INTLLoss(axis=axis)(*gather_embeddings(online, target))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "gradients": gradients, "buffers": dict(model.named_buffers())}


def all_steps():
    n = BATCH // dist.get_world_size()
    share = slice(dist.get_rank() * n, (dist.get_rank() + 1) * n)
    return {case: one_step(share, *case) for case in CASES}


def everything_on_a_rank():
    found = all_steps(), gathered(), norms_on_ranks(), collectives(), compressed(), compiled()
    return *found, started()


@pytest.fixture(scope="module")
def two_ranks():
    """What two ranks find, for all tests below: starting processes is what costs here."""
    return run_ranks(everything_on_a_rank)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(two_ranks, case):
    alone = one_step(slice(None), *case)
    scale = torch.cat([g.flatten() for g in alone["gradients"].values()]).norm()
    for rank, *_ in two_ranks:
        assert rank[case]["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-5)
        assert rank[case]["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            error = (rank[case]["gradients"][name] - gradient).norm()
            assert error <= 1e-5 * gradient.norm() + 1e-6 * scale, name
        assert rank[case]["buffers"].keys() == alone["buffers"].keys()
        for name, buffer in alone["buffers"].items():
            torch.testing.assert_close(rank[case]["buffers"][name], buffer, rtol=1e-5, atol=1e-6, msg=name)


def gathered():
    rank = dist.get_rank()
    z = (torch.arange(12.0).reshape(2, 2, 3) + 100 * rank).requires_grad_()
    everything = gather_views(z)
    (everything * torch.arange(24.0).reshape(2, 4, 3)).sum().backward()
    online, target = gather_embeddings(z.detach(), z[0].detach() + 7)
    return everything.detach(), z.grad, online, target


def test_gather_is_in_rank_order_with_gradient(two_ranks):
    weights = torch.arange(24.0).reshape(2, 4, 3)
    expected = torch.cat([torch.arange(12.0).reshape(2, 2, 3) + 100 * rank for rank in range(2)], 1)
    for rank, (_, found, *_) in enumerate(two_ranks):
        everything, gradient, online, target = found
        assert torch.equal(everything, expected) and torch.equal(online, expected)
        assert torch.equal(target, expected[0] + 7)
        assert torch.equal(gradient, 2 * weights[:, 2 * rank : 2 * rank + 2])  # DDP divides by 2


def test_gather_alone_is_the_identity():
    z = torch.randn(2, 3, 4)
    assert gather_views(z) is z
    assert gather_embeddings(z, z[0])[0] is z and gather_embeddings(z, None)[1] is None


def norms():
    """BatchNorms of three views, the first of a network of its own, and their batches of unlike sizes."""
    torch.manual_seed(0)
    target, online = nn.BatchNorm2d(5, eps=1e-3).requires_grad_(False), nn.BatchNorm2d(5, momentum=0.3)
    for norm in (target, online):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    # A mean that the difference of two sums of squares would suffer from.
    views = [torch.randn(8, 5, side, side + 1) * 2 + 50 for side in (3, 4, 2)]
    return [target, online, online], views


def weighted_sum(ys):
    return sum((y.pow(3) * (i + 1)).sum() for i, y in enumerate(ys))


def norms_on_ranks():
    """What the views give and leave after two steps and one without gradient."""
    norms_, views = norms()
    share = [view.chunk(2)[dist.get_rank()].clone().requires_grad_(i > 0) for i, view in enumerate(views)]
    batch_norm(norms_, share)
    ys = batch_norm(norms_, share)
    assert [y.requires_grad for y in ys] == [False, True, True]
    weighted_sum(ys).backward()
    with torch.no_grad():
        batch_norm(norms_, [2 * x for x in share])
    evaluated = batch_norm([norm.eval() for norm in norms_], share)
    states, parameters = [norm.state_dict() for norm in norms_], list(norms_[1].parameters())
    ys, evaluated = [y.detach() for y in ys], [y.detach() for y in evaluated]
    return ys, [x.grad for x in share[1:]], states, evaluated, [p.grad for p in parameters]


def test_batchnorm_of_all_views_and_ranks_is_torchs_of_each_view_in_turn(two_ranks):
    ranks = [rank[2] for rank in two_ranks]
    norms_, views = norms()
    norms_ = [norms_[0].double(), norms_[1].double(), norms_[1]]
    views = [view.double().requires_grad_(i > 0) for i, view in enumerate(views)]
    for scale in (1, 1, 2):
        ys = [norm(scale * view) for norm, view in zip(norms_, views, strict=True)]
        if scale == 1:
            expected = ys
    weighted_sum(expected).backward()
    for i, y in enumerate(expected):
        torch.testing.assert_close(torch.cat([r[0][i] for r in ranks]).double(), y.detach(), rtol=1e-5, atol=2e-5)
    for i, view in enumerate(views[1:]):
        gradient = torch.cat([r[1][i] for r in ranks]).double()
        torch.testing.assert_close(gradient, view.grad, rtol=1e-4, atol=2e-4)
    for norm, *states in zip(norms_, *(r[2] for r in ranks), strict=True):
        for name, value in norm.state_dict().items():
            for state in states:
                torch.testing.assert_close(state[name].to(value.dtype), value, rtol=1e-5, atol=1e-6)
    for i, (norm, view) in enumerate(zip(norms_, views, strict=True)):
        evaluated = torch.cat([r[3][i] for r in ranks]).double()
        torch.testing.assert_close(evaluated, norm.eval()(view).detach(), rtol=1e-5, atol=2e-5)
    for i, p in enumerate(norms_[1].parameters()):
        torch.testing.assert_close(sum(r[4][i] for r in ranks).double(), p.grad, rtol=1e-4, atol=1e-4)


def fail_on_rank_one():
    if dist.get_rank() == 1:
        raise RuntimeError("rank one gave up")


def test_a_failing_rank_fails_the_test():
    with pytest.raises(ProcessRaisedException, match="rank one gave up"):
        run_ranks(fail_on_rank_one)


def test_start_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with start("cpu") as world:
        assert (world.rank, world.world_size, world.is_main) == (0, 1, True)
        assert world.device == torch.device("cpu") and not dist.is_initialized()
        world.barrier()
    with pytest.raises(UserError, match="tpu"):
        start("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU"):
        start("cuda")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 0), "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", False),  # a V100 and torch 2.14
        ((7, 0), "sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", True),  # and torch 2.10
        ((8, 0), "sm_75 sm_86", False),
        ((8, 9), "sm_75 sm_86", True),
        ((9, 0), "sm_80 sm_90a", True),
        ((13, 0), "sm_90 sm_120", False),
        ((13, 0), "sm_90 compute_120", True),
        ((9, 0), "sm_80 compute_100f", False),
        ((9, 4), "gfx90a gfx942", True),
        ((9, 0), "", True),
    ],
)
def test_code_runs_within_a_generation_and_ptx_on_later_ones(capability, architectures, runs):
    assert has_code_for(capability, architectures.split()) == runs


def test_a_gpu_that_torch_has_no_code_for_is_a_sentence(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    v100 = {"is_available": True, "device_count": 1, "get_device_name": "Tesla V100", "get_device_capability": (7, 0)}
    for name, value in (v100 | {"get_arch_list": ["sm_75", "sm_80"]}).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with pytest.raises(UserError, match=r"without code for Tesla V100 \(compute capability 7.0\): a V100 needs pip"):
        start("auto")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2 is in the environment, but not MASTER_ADDR, MASTER_PORT;"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is in the environment, but not RANK, MASTER_ADDR, MASTER_PORT;"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment is no whole number of 1 or more;"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 in the environment is no whole number of 1 or more;"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 and WORLD_SIZE=2 in the environment do not fit;"),
        ({"RANK": "1"}, "RANK=1 and no WORLD_SIZE in the environment do not fit;"),
        ({"RANK": "-1"}, "RANK=-1 in the environment is no whole number of 0 or more;"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x in the environment"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "99999"},
            "MASTER_PORT=99999 in the environment is above 65535;",
        ),
    ],
)
def test_half_an_environment_of_ranks_is_a_sentence(monkeypatch, variables, says):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        start("cpu")
    assert not dist.is_initialized()


def test_a_whole_environment_of_one_rank_is_one_process(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(name, value)
    with start("cpu") as world:
        assert (world.rank, world.world_size) == (0, 1)


FAILING_RANK = """
import atexit
import torch, torch.distributed as dist
from fastintl.distributed import World
from loaders.errors import UserError, exit_on_user_error

@exit_on_user_error
def main():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    atexit.register(print, "an ordinary end")
    with World(0, 2, 0, torch.device("cuda", 0)):  # the device is a name here: nothing is put on it
        raise {error}

main()
"""


@pytest.mark.parametrize(
    ("error", "status", "last_line"),
    [
        ("UserError('too many bad images')", 2, "error: too many bad images"),
        ("ValueError('a bug')", 1, "ValueError: a bug"),
        ("SystemExit(75)", 75, ""),
    ],
)
def test_a_gpu_rank_that_fails_alone_ends_without_a_meeting(error, status, last_line):
    """To close NCCL's groups waits for the other ranks; there is no NCCL here, but nothing must be closed."""
    ended = subprocess.run(
        [sys.executable, "-c", FAILING_RANK.format(error=error)], capture_output=True, text=True, timeout=120
    )
    # It ends before what Python does at an exit. Some versions of gloo say that they are connected.
    said = [line for line in ended.stdout.splitlines() if not line.startswith("[Gloo]")]
    assert (ended.returncode, said) == (status, [])
    assert (ended.stderr.splitlines() or [""])[-1].endswith(last_line)


def count_reductions(views):
    model = build(with_target=True)
    norms = sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.encoder.modules())
    with torch.profiler.profile() as profile:
        model(images()[:1] * views)[0].square().sum().backward()
    return norms, sum(event.name == "gloo:all_reduce" for event in profile.events())


def collectives():
    return [count_reductions(views) for views in (2, 4)]


def test_the_ranks_meet_twice_a_batchnorm_however_many_views(two_ranks):
    for rank in two_ranks:
        for norms, reductions in rank[3]:
            assert norms > 8 and reductions == 2 * norms


def compressed():
    """The gradients after one step, by format of their exchange, and this rank's own."""
    share = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    found = {}
    for compress in ("none", "fp16", "bf16"):
        model = build(with_target=False)
        parallel = data_parallel(model, World(0, 2, 0, torch.device("cpu")), compress)
        online, _ = parallel([view[share] for view in images()])
        online.square().sum().backward()
        found[compress] = torch.cat([p.grad.flatten() for p in model.parameters()])
    return found


@pytest.mark.parametrize("compress, roundoff", [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_compressed_gradients_are_rounded_and_no_more(two_ranks, compress, roundoff):
    for rank in two_ranks:
        exact, found = rank[4]["none"], rank[4][compress]
        error = (found - exact).norm() / exact.norm()
        assert 0 < error <= 2 * roundoff  # of the shares and of their sum
    assert torch.equal(two_ranks[0][4][compress], two_ranks[1][4][compress])


def compiled():
    """A residual block and the head of all views together, eager and as one compiled graph: outputs, gradients and
    statistics of both."""
    found = []
    regions = (lockstep.block, 32, ()), (lockstep.head, 128, (True,))
    for region, channels, more in regions:
        for function in (region, torch.compile(region, fullgraph=True, dynamic=False, backend="aot_eager")):
            encoder = build(with_target=False).encoder
            module = encoder.backbone.layer2[0] if region is lockstep.block else encoder
            generator = torch.Generator().manual_seed(dist.get_rank())
            xs = [torch.randn(4, channels, side, side, generator=generator) for side in (8, 6)]
            ys = function([module, module], xs, *more)
            weighted_sum(ys).backward()
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            found.append([*(y.detach() for y in ys), *gradients, *module.state_dict().values()])
    return found


def test_the_exchange_of_batchnorm_compiles(two_ranks):
    for rank in two_ranks:
        for eager, as_one_graph in zip(rank[5][::2], rank[5][1::2], strict=True):
            torch.testing.assert_close(as_one_graph, eager, rtol=1e-4, atol=1e-4)


def started():
    port = [free_port()]  # another, lest a rank meets the store that the other is about to close
    dist.broadcast_object_list(port)
    os.environ["MASTER_PORT"] = str(port[0])
    dist.destroy_process_group()  # run_ranks joined already; join again as training does
    with start("cpu") as world:
        world.barrier()
        total = torch.tensor(float(world.rank + 1))
        dist.all_reduce(total)
    return world.rank, world.world_size, total.item(), dist.is_initialized()


def test_start_with_torchruns_environment(two_ranks):
    assert [rank[-1] for rank in two_ranks] == [(0, 2, 3.0, False), (1, 2, 3.0, False)]


def told_on_a_rank():
    told = []
    logging.getLogger("fastintl").addHandler(handler := logging.Handler())
    handler.emit = lambda record: told.append(record.getMessage())
    z = torch.randn(3, 10, 16)
    INTLLoss()(*gather_embeddings(z, z[0]))
    BarlowTwinsLoss()(gather_views(z))
    CWRGPLoss(groups=2, w_size=5)(z)  # a rank's own samples, as published
    properly = list(told)
    for _ in range(2):
        INTLLoss()(z)
    return properly, told


def test_the_samples_of_one_rank_in_the_place_of_all_are_told_once_with_the_cure():
    (properly, told), (others, of_others) = run_ranks(told_on_a_rank)
    assert properly == others == of_others == []
    (sentence,) = told
    assert "the 10 samples of one rank are taken for the whole batch of 2 ranks" in sentence
    assert "fastintl.distributed.gather_embeddings(views, target)" in sentence
