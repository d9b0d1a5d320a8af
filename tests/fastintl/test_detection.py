"""Detectors learnt on coloured shapes by tools/detect.py: AP of boxes and masks, kills, ranks, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ddp import run_ranks
from detection_sets import CLASSES, write_coco, write_voc
from PIL import Image
from training import ROOT, environment

from fastintl.batchnorm import SyncBatchNorm
from fastintl.detection.average_precision import measure
from fastintl.detection.config import DetectionConfig, load
from fastintl.detection.inference import detect
from fastintl.detection.loader import TrainingLoader
from fastintl.detection.sets import read_sets
from fastintl.detection.training_step import DetectionStep
from fastintl.distributed import World
from fastintl.model import build_backbone
from fastintl.preemption import REQUEUE_STATUS
from tools import detect as tool

SIDE = 64
SMALL = {
    "views.train_sizes": "[64]",
    "views.test_size": SIDE,
    "model.anchor_sizes": "[12,18,27]",
    "model.proposals_train": "[300,60]",
    "model.proposals_test": "[200,30]",
    "model.rois": 16,
    "model.roi_size": 8,
    "optim.lr": 0.3,
    "optim.steps": 110,
    "optim.drops": "[90]",
    "optim.warmup_steps": 20,
    "train.batch_size": 8,
    "train.device": "cpu",
    "data.threads": 1,
    "eval.precise_bn": 10,
}
VOC = {"data.train": "[VOC2007/trainval]", "data.classes": f"[{','.join(CLASSES)}]"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_voc(root / "voc", 200, 40, SIDE)
    write_coco(root / "coco", 200, 40, SIDE)
    return root


@pytest.fixture(scope="module")
def few_shapes(tmp_path_factory) -> Path:
    """For trainings of a few steps, which find a hundred things in every picture of the test."""
    root = tmp_path_factory.mktemp("few_shapes")
    write_coco(root / "coco", 40, 6, SIDE)
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "resnet8.pt"
    torch.save(build_backbone("resnet8", zero_init_residual=False).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same order of summation as in the processes that are started here
    yield
    torch.set_num_threads(before)


def words(shapes: Path, data: str, out: Path, *more: object, **changes) -> list[str]:
    keys = {**SMALL, **(VOC if data == "voc" else {}), "out": out}
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    told = ["--data", data, "--root", shapes / data, *more, *(f"{key}={value}" for key, value in keys.items())]
    return [str(word) for word in told]


def weights_of(backbone: Path) -> tuple:
    return "--backbone", backbone, "--arch", "resnet8"


@pytest.mark.slow
@pytest.mark.parametrize("data", ["voc", "coco"])
def test_shapes_are_found_and_outlined_after_a_tiny_schedule(shapes, backbone, tmp_path, capsys, data):
    files = ("--json", tmp_path / "found.json", "--results", tmp_path / "results.md", "--picture", tmp_path / "p.png")
    tool.main(words(shapes, data, tmp_path, *weights_of(backbone), *files))
    screen = capsys.readouterr().out
    result = json.loads((tmp_path / "found.json").read_text())
    kinds = ("box",) if data == "voc" else ("box", "mask")
    for kind in kinds:
        assert result["metrics"][f"{kind} AP50"] > 0.5, result["metrics"]
        assert kind in screen and f"{result['metrics'][f'{kind} AP75']:.1%}" in screen
    assert len(result["metrics"]) == 3 * len(kinds) and result["sha256"] and result["settings"]["optim.steps"] == 110
    assert "box AP50" in (tmp_path / "results.md").read_text()
    drawn = np.array(Image.open(tmp_path / "p.png"))
    assert drawn.shape[0] > 900 and drawn.std() > 20
    run = tmp_path / ("voc0712" if data == "voc" else "coco_2x")
    keys = [*words(shapes, data, tmp_path)[4:], f"data.root={shapes / data}"]
    config = load(ROOT / f"rcfgs/detection/{run.name}.yaml", keys)
    stored = json.loads((run / "detections.json").read_text())
    assert measure(config, read_sets(config)[1], stored) == result["metrics"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["box AP50"] == result["metrics"]["box AP50"] and rows[0]["loss"] > rows[-2]["loss"]
    kept = torch.load(run / "detector.pt", weights_only=True)
    assert kept["classes"] == list(CLASSES) and "roi_heads.box_head.norm.weight" in kept["network"]


BRIEF = {
    "optim__steps": 10,
    "optim__drops": "[8]",
    "train__save_minutes": 1e-6,
    "log__every": 1,
    "eval__precise_bn": 2,
    "eval__every": 6,
}


def test_killed_or_stopped_it_ends_with_identical_weights(few_shapes, backbone, tmp_path, capsys, monkeypatch):
    def arguments(name):
        return words(few_shapes, "coco", tmp_path, *weights_of(backbone), name=name, **BRIEF)

    tool.main(arguments("whole"))
    command = [sys.executable, "tools/detect.py", *arguments("killed")]
    process = subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 200
    while not any(checkpoints.glob("step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 0 < max(int(path.stem[5:]) for path in checkpoints.glob("step_*.pt")) < 10, "the kill came too late"
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(DetectionStep, "__call__", signalled_in(DetectionStep.__call__, step=3))
        tool.main(arguments("stopped"))
    assert end.value.code == REQUEUE_STATUS
    names = ("whole", "killed", "stopped")
    for name in names[1:]:
        tool.main(arguments(name))
        assert "resumed at step" in capsys.readouterr().err
    whole, *others = (torch.load(tmp_path / name / "checkpoints/step_00000010.pt", weights_only=True) for name in names)
    for other in others:
        assert_identical(whole, other)
    assert len({(tmp_path / name / "detections.json").read_text() for name in names}) == 1
    for change in ("optim.lr=0.5", "seed=1"):
        with pytest.raises(SystemExit):
            tool.main([*arguments("whole"), change])
        assert f"holds a training with another {change.split('=')[0]}" in capsys.readouterr().err


def signalled_in(call, step: int):
    """A training step during which this process gets SIGTERM."""

    def signalled(self, batch, number):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, batch, number)

    return signalled


def assert_identical(first: dict, second: dict) -> None:
    for part in ("network", "optimizer"):
        mine, theirs = (dict(flat(state[part])) for state in (first, second))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine if isinstance(mine[k], torch.Tensor))


def flat(tree, name: str = ""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{name}.{key}")
    else:
        yield name, tree


# Ranks


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
    # Both are rank 0 to the sampling, and see the same pictures.
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
    for alike, *_ in ranks:  # the same pictures on both ranks are those pictures once
        for name, end in one.named_parameters():
            # A region that overlaps an object by just a half may be its or not, by rounding.
            assert (alike[name] - end).norm() <= 0.02 * (end - learnt[name]).norm() + 1e-6, name
    (_, state, found, _), (_, other, nothing, _) = ranks
    assert all(torch.equal(state[name], other[name]) for name in learnt) and nothing == []
    # Every picture is tested once, in order, as by one process.
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


# Errors


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "give --backbone FILE, or --from-scratch"),
        (("--backbone", "x", "--from-scratch"), "and not both"),
        (("--from-scratch", "optim.lrr=1"), "did you mean optim.lr?"),
        (("--from-scratch", "train.batch_size=300"), "lower the batch size"),
        (("--from-scratch", "model.masks=true"), "VOC's boxes have no masks"),
        (("--from-scratch", "optim.lr=1e30"), "the loss is no longer a number at step"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(shapes, tmp_path, capsys, more, says):
    with pytest.raises(SystemExit) as end:
        tool.main([*words(shapes, "voc", tmp_path, log__every=1), "--arch", "resnet8", *more])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 2 and len(lines) == 1 and says in lines[0]


def test_help_needs_no_torch():
    code = "import sys; sys.argv = ['detect', '--help']; from tools import detect\ntry: detect.main()\n" \
           "finally: print('torch' in sys.modules)"  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert "model.anchor_sizes=[32, 64, 128, 256, 512]" in result.stdout and result.stdout.endswith("False\n")
