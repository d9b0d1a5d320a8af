"""model.weights: a pretraining starts at the accuracy of the file, and goes on from its own state afterwards."""

import json
import os
import shutil
import subprocess

import pytest
import torch

from fastintl.weights.backbone import load_backbone
from loaders.errors import UserError
from tests.helpers import warm_python
from tests.helpers.training import ROOT, command, environment


def train(out, images, path=None, **changes):
    words, variables = command(out, images, **changes), environment()
    if path is None:
        return warm_python.run(words, env=variables, cwd=ROOT), out / "run"
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), variables.get("PYTHONPATH")]))
    return subprocess.run(words, env=variables, capture_output=True, text=True), out / "run"


def accuracies(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "knn_top1" in row or "knn_top1_untrained" in row]


def test_a_run_begins_at_the_accuracy_of_its_weights_and_resumes_without_them(finished, images, tmp_path):
    shutil.copy(finished / "run" / "backbone.pt", tmp_path / "start.pt")
    start = {"model__weights": tmp_path / "start.pt", "eval__baselines": "true"}
    done, run = train(tmp_path, images, train__max_steps=6, **start)
    assert done.returncode == 0, done.stderr
    before, after = accuracies(finished / "run")[-1]["knn_top1"], accuracies(run)[0]["knn_top1_untrained"]
    assert before == after and "the weights it starts from" in done.stderr
    (tmp_path / "start.pt").unlink()  # a run that goes on does not ask for them
    done, run = train(tmp_path, images, train__max_steps=12, **start)
    assert done.returncode == 0 and "resumed at step 6" in done.stderr, done.stderr
    assert not torch.equal(load_backbone(run).conv1.weight, load_backbone(finished / "run").conv1.weight)


def test_weights_that_do_not_fit_are_listed_and_nothing_is_trained(images, tmp_path):
    torch.save({"conv1.weight": torch.ones(32, 3, 3, 3), "fc.weight": torch.ones(2, 2)}, tmp_path / "part.pt")
    done, run = train(tmp_path, images, model__weights=tmp_path / "part.pt")
    assert done.returncode == 2 and "missing: bn1.weight" in done.stderr.splitlines()[-1]
    assert not list(run.glob("checkpoints/step_*.pt"))


def test_a_run_of_ones_own_network_names_it_on_the_command_line_alone(images, tmp_path, monkeypatch):
    (tmp_path / "mine_in_a_run.py").write_text(
        "from torch import nn\n"
        "print('imported')\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1))\n"
    )
    own = {"model__arch": "mine_in_a_run:net", "model__stem": "imagenet", "model__zero_init_residual": "true"}
    done, run = train(tmp_path, images, tmp_path, train__epochs=1, **own)
    assert done.returncode == 0 and "imported" in done.stdout, done.stderr
    with pytest.raises(UserError, match="mine_in_a_run:net, whose module no file of weights makes us import: name it"):
        load_backbone(run)
    monkeypatch.syspath_prepend(tmp_path)
    backbone = load_backbone(run, "mine_in_a_run:net")
    assert backbone.feature_dim == 16 and backbone(torch.zeros(1, 3, 24, 24)).shape == (1, 16)
