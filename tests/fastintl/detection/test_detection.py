"""Detectors learnt on coloured shapes by tools/detect.py: AP of boxes and masks, kills, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastintl.detection.average_precision import measure
from fastintl.detection.config import load
from fastintl.detection.datasets import read_sets
from fastintl.detection.training_step import DetectionStep
from fastintl.distributed.preemption import REQUEUE_STATUS
from fastintl.network.model import build_backbone
from tests.detection_sets import CLASSES, write_coco, write_voc
from tests.helpers.detecting import SIDE, words
from tests.helpers.training import ROOT, start
from tools import detect as tool

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_voc(root / "voc", 200, 40, SIDE)
    write_coco(root / "coco", 200, 40, SIDE)
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "resnet8.pt"
    torch.save(build_backbone("resnet8", zero_init_residual=False).state_dict(), path)
    return path


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
    process = start(command, tmp_path / "output.txt")
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
        assert f"holds a run with another {change.split('=')[0]}" in capsys.readouterr().err
    relabelled = shutil.copytree(few_shapes / "coco", tmp_path / "relabelled")
    path = relabelled / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    first["category_id"] = next(c["id"] for c in content["categories"] if c["id"] != first["category_id"])
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        tool.main([*arguments("whole"), f"data.root={relabelled}"])
    assert "holds a run on images with other labels" in capsys.readouterr().err


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
