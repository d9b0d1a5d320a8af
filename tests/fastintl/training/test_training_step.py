"""The fast step against the plain one: compiled, channels_last and in reduced precision against eager float32.

What the tolerances are. A format with unit roundoff u (bf16 2^-8, fp16 2^-11, fp32 2^-24) changes a value by at most
u of it, and the loss by about as much. The gradient changes by more: of the values before a ReLU a share of about u
lies close enough to zero to be rounded across it, each such gate passes or stops a whole entry of the gradient, and so
every ReLU adds a relative error of about sqrt(u), L of them sqrt(L u). That is the error to expect of the gradient as a
whole, which may be half as large again by chance (with one thread it is 1.06 times that, with two 0.9); a single
parameter has fewer entries to average over and may have twice as much.
"""

import copy
import functools
import math
import shutil

import pytest
import torch
import torch.distributed as dist

from fastintl import config as configuration
from fastintl.distributed import World
from fastintl.network import compilation
from fastintl.training.determinism import set_deterministic
from fastintl.training.step import TrainingStep
from loaders.errors import UserError
from tests.helpers.ddp import run_ranks

SIZE, BATCH = 16, 16
RELUS = 8  # of resnet8 with a projector of two layers
ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
on_gpu = [
    pytest.param("cuda", precision, compiled, graphs, marks=gpu)
    for precision in ("fp16", "bf16")
    for compiled, graphs in (("off", "off"), ("on", "off"), ("on", "on"))
]


def training_step(device="cpu", world=None, **changes):
    keys = {
        "model.arch": "resnet8",
        "model.stem": "cifar",
        "model.zero_init_residual": "false",
        "model.projector": "[64,64]",
        "train.batch_size": BATCH,
        "train.compile": "off",
        "train.precision": "fp32",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    config = configuration.load(None, [f"{key}={value}" for key, value in keys.items()])
    return TrainingStep(config, world or World(0, 1, 0, torch.device(device)), epoch_steps=10)


def images(device, memory_format, views=2):
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(BATCH, 3, SIZE, SIZE, generator=generator) for _ in range(views)]
    return [view.to(device, memory_format=memory_format) for view in made]


def loss_and_gradients(step, views):
    loss = step.forward(views)
    step.backward(loss)
    scale = step.scaler.get_scale()
    return loss.item(), {name: p.grad.cpu() / scale for name, p in step.model.encoder.named_parameters()}


@pytest.mark.parametrize(
    "device, precision, compiled, graphs",
    [
        ("cpu", "fp32", "off", "off"),
        ("cpu", "bf16", "off", "off"),
        pytest.param("cpu", "bf16", "on", "off", marks=[needs_compiler, pytest.mark.slow]),
        *on_gpu,
    ],
)
def test_the_fast_step_has_the_loss_and_gradients_of_eager_float32(device, precision, compiled, graphs):
    plain = training_step()
    plain.model.to(memory_format=torch.contiguous_format)
    expected_loss, expected = loss_and_gradients(plain, images("cpu", torch.contiguous_format))
    fast = training_step(device, train__precision=precision, train__compile=compiled, train__cuda_graphs=graphs)
    loss, gradients = loss_and_gradients(fast, images(device, torch.channels_last))
    roundoff = ROUNDOFF[precision]
    assert loss == pytest.approx(expected_loss, rel=max(roundoff, 1e-6))
    assert gradients.keys() == expected.keys()
    expected_error = math.sqrt(RELUS * roundoff)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 2 * expected_error * gradient.norm(), name
    all_expected = torch.cat([g.flatten() for g in expected.values()])
    all_found = torch.cat([gradients[name].flatten() for name in expected])
    assert (all_found - all_expected).norm() <= 1.5 * expected_error * all_expected.norm()


def compiled_and_eager_on_a_rank():
    """In float64, where no value is so close to a ReLU's zero that rounding could carry it across.

    Traced, decomposed and cut as for Inductor, whose C++ compiler alone is left out: it takes minutes on two ranks.
    """
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    compilation.OPTIONS.clear()
    rank = dist.get_rank()
    torch.set_default_dtype(torch.float64)
    found = []
    for compiled in ("off", "on"):
        step = training_step(world=World(rank, 2, rank, torch.device("cpu")), train__compile=compiled)
        views = [view.chunk(2)[rank].double() for view in images("cpu", torch.channels_last, views=2)]
        found.append(loss_and_gradients(step, views))
    return found


@pytest.mark.slow
def test_two_ranks_compiled_have_the_loss_and_gradients_of_eager():
    for (expected_loss, expected), (loss, gradients) in run_ranks(compiled_and_eager_on_a_rank):
        assert loss == pytest.approx(expected_loss, rel=1e-9)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("compiled, graphs", [("off", "off"), ("on", "off"), ("on", "on")])
def test_no_step_waits_for_the_gpu(precision, compiled, graphs):
    step = training_step("cuda", train__precision=precision, train__compile=compiled, train__cuda_graphs=graphs)
    views = images("cuda", torch.channels_last)
    for i in range(4):  # compiles, picks algorithms, records graphs
        step(views, i)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [step(views, i) for i in range(4, 7)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(loss.isfinite() for loss in losses)


@pytest.mark.slow
def test_compiled_ahead_no_later_stage_compiles_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compilation, "OPTIONS", {})
    counted = torch._dynamo.utils.counters["stats"]
    found = []
    for ahead in (False, True):
        torch._dynamo.reset()
        crops = {
            "sizes": "[16,16]",
            "scales": "[[0.2,1],[0.2,1]]",
            "blur": "[0,0]",
            "solarize": "[0,0]",
            "grow": "[0.5,1]",
        }
        step = training_step(train__compile="on", **{f"crops__{key}": value for key, value in crops.items()})
        now, *later = step.config.crops.stages
        assert later
        if ahead:
            step.compile_ahead([stage.sides for stage in later])
        graphs = []
        for stage in (now, *later):
            generator = torch.Generator().manual_seed(stage.epoch)
            views = [torch.randn(BATCH, 3, side, side, generator=generator) for side in stage.sides]
            step([view.contiguous(memory_format=torch.channels_last) for view in views], 10 * stage.epoch)
            graphs.append(counted["unique_graphs"])
        assert (graphs[0] == graphs[-1]) == ahead
        found.append(step.state_dict())
    expected, state = found
    assert all(torch.equal(state["model"][name], value) for name, value in expected["model"].items())
    for i, kept in expected["optimizer"]["state"].items():
        assert all(torch.equal(state["optimizer"]["state"][i][key], value) for key, value in kept.items())


def kept_bytes(step, views):
    """Of the tensors that a forward pass keeps for the backward pass, parameters left out."""
    kept, parameters = {}, {p.untyped_storage().data_ptr() for p in step.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step.forward(views)
    return sum(kept.values())


@pytest.mark.parametrize("ema", ["true", "false"])
def test_recomputed_blocks_give_the_same_gradients_and_statistics(ema):
    plain, again = (training_step(model__ema=ema, train__recompute=recompute) for recompute in ("off", "on"))
    views = images("cpu", torch.channels_last, views=3)
    expected_loss, expected = loss_and_gradients(plain, views)
    loss, gradients = loss_and_gradients(again, views)
    assert loss == expected_loss and all(torch.equal(gradients[name], expected[name]) for name in expected)
    plain(views, 0), again(views, 0)
    ours, theirs = again.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # the running statistics among them
    assert kept_bytes(again, views) < kept_bytes(plain, views) / 2


def test_a_step_needs_no_run_and_moves_encoder_and_target():
    step = training_step()
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    views = images("cpu", torch.channels_last, views=3)
    first = step(views, 0)
    assert first.shape == () and not first.requires_grad
    online, target = step.embeddings
    assert online.shape == (2, BATCH, 64) and target.shape == (BATCH, 64) and not online.requires_grad
    step(views, 1)
    after = dict(step.model.named_parameters())
    assert not torch.equal(after["encoder.projector.0.weight"], before["encoder.projector.0.weight"])
    assert not torch.equal(after["target.projector.0.weight"], before["target.projector.0.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lars"])
def test_a_step_taken_up_again_goes_on_bit_for_bit(optimizer):
    step, again = (training_step(optim__name=optimizer, seed=seed) for seed in (0, 1))
    views = images("cpu", torch.channels_last, views=3)
    for number in range(3):
        if number == 2:
            again.load_state_dict(copy.deepcopy(step.state_dict()))
        step(views, number)
    again(views, 2)
    ours, theirs = step.state_dict(), again.state_dict()
    assert all(torch.equal(ours["model"][key], theirs["model"][key]) for key in ours["model"])
    for i, state in ours["optimizer"]["state"].items():
        assert all(torch.equal(state[key], theirs["optimizer"]["state"][i][key]) for key in state)


def test_a_run_without_a_scaler_goes_on_with_one():
    """As when the scheduler moves it from an A100 to a V100, where precision=auto is fp16."""
    bf16, fp16, on_its_way = (training_step() for _ in range(3))
    for step in (fp16, on_its_way):
        step.scaler = torch.amp.GradScaler("cpu")
    on_its_way.scaler.load_state_dict({**on_its_way.scaler.state_dict(), "scale": 8.0})
    fp16.load_state_dict(bf16.state_dict())
    assert fp16.scaler.state_dict()["scale"] == torch.amp.GradScaler("cpu").state_dict()["scale"]
    fp16.load_state_dict(on_its_way.state_dict())
    assert fp16.scaler.state_dict()["scale"] == 8.0
    bf16.load_state_dict(on_its_way.state_dict())
    assert bf16.scaler.state_dict() == {}


def test_cuda_graphs_where_they_cannot_work_are_refused():
    with pytest.raises(UserError, match="train.cuda_graphs=on needs a GPU"):
        training_step(train__cuda_graphs="on", train__compile="on")
    with pytest.raises(UserError, match="train.compile"):
        training_step(train__cuda_graphs="on", train__compile="off")


@pytest.fixture
def algorithms_as_before():
    yield
    set_deterministic(False)


@pytest.mark.parametrize(
    "device, compiled",
    [("cpu", "off"), pytest.param("cuda", "off", marks=gpu), pytest.param("cuda", "on", marks=gpu)],
)
def test_deterministic_steps_repeat_their_bits(device, compiled, algorithms_as_before):
    """Four trainings of three steps, with the network that has a max-pool, in the format of ``auto``."""
    states = []
    for _ in range(4):
        keys = {"model__stem": "imagenet", "train__compile": compiled, "train__precision": "auto"}
        step = training_step(device, train__deterministic="on", **keys)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        for number in range(3):
            step(images(device, torch.channels_last, views=3), number)
        states.append(step.model.state_dict())
    assert all(torch.equal(state[name], states[0][name]) for state in states[1:] for name in states[0])
    training_step(device)  # a training that does not ask for it has the fastest algorithms again
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark


def test_the_deterministic_gradient_is_the_usual_one(algorithms_as_before):
    views = images("cpu", torch.channels_last, views=3)
    expected_loss, expected = loss_and_gradients(training_step(model__stem="imagenet"), views)
    loss, gradients = loss_and_gradients(training_step(model__stem="imagenet", train__deterministic="on"), views)
    assert loss == expected_loss
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


def test_a_workspace_that_does_not_repeat_is_refused(monkeypatch, algorithms_as_before):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0'.*unset it"):
        training_step(train__deterministic="on")
