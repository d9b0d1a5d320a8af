"""The counts of ``tools/bench.py count`` against an H100's profile, arithmetic, and torch's own counters."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from fastintl import config as configuration
from fastintl.training.optim import parameter_groups
from tests.helpers import warm_python

ROOT = Path(__file__).resolve().parents[3]
TINY = [
    "model.arch=resnet8",
    "model.projector=[64,64]",
    "model.ema=false",
    "crops.sizes=[64,64]",
    "crops.scales=[[0.2,1],[0.2,1]]",
    "crops.blur=[0,0]",
    "crops.solarize=[0,0]",
    "train.batch_size=64",
]


def test_lists_of_tensors_take_the_launches_that_an_h100_was_seen_to_take():
    from tools.benchmark.recorded_step import foreach_launches, record

    config = configuration.load(ROOT / "rcfgs/ep100.yaml", [])
    model, _ = record(config, 1)
    groups = [[p.numel() for p in group["params"]] for group in parameter_groups(model.encoder, config.optim)]
    profile = json.loads((ROOT / "docs/benchmarks/profile_h100.json").read_text())["steps"][1]["kernels"]
    seen = {}
    for name, (count, _) in profile.items():
        if found := re.search(r"multi_tensor_apply_kernel.*TensorListMetadata<(\d)>", name):
            seen[int(found[1])] = count
    assert sum(foreach_launches(sizes, 3) for sizes in groups) == seen[3] == 12  # SGD's
    assert foreach_launches([p.numel() for p in model.encoder.parameters()], 2) == seen[2] == 10  # the EMA's


def test_operations_of_code_that_is_not_compiled_are_counted():
    from tools.benchmark.recorded_step import EagerCount

    x = torch.empty(100, 50, device="meta")
    with EagerCount() as count:
        (x.view(50, 100) * 2).exp().view(-1).sum()
    assert count.launches == 3  # a product, an exponential, a sum; views ask for nothing
    assert count.bytes_moved == 4 * (5000 + 5000) * 2 + 4 * (5000 + 1)


@pytest.mark.slow
@pytest.mark.skipif(not torch.__version__.startswith("2.14"), reason="reads the code of torch 2.14's Inductor")
def test_a_small_step_is_counted_whole(tmp_path):
    words = ["count", "--rcfg", "rcfgs/ep100.yaml", "--ranks", "8", "--json", tmp_path / "count.json", *TINY]
    run = warm_python.run([sys.executable, "tools/bench.py", *words], cwd=ROOT)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "count.json").read_text())
    parts = {part["name"]: part for part in result["parts"]}
    assert {"stem forward", "stem backward", "head backward", "loss forward", "gradient exchange"} <= set(parts)
    assert "EMA" not in parts
    # What the views ask for alike is one launch: else the regions ask for twice, the loss for four times as many.
    regions = [part for name, part in parts.items() if re.match("stem|layer|head", name)]
    assert sum(part["launches"] for part in regions) <= 165
    assert parts["loss forward"]["launches"] + parts["loss backward"]["launches"] <= 60
    assert result["total"]["launches"] == sum(part["launches"] for part in result["parts"])
    assert "whole step" in run.stdout
    # Two views of 64 x 64 after the stem's convolution: 8 x 32 channels x 32 x 32 values each. The backward pass
    # writes the pool's gradient once and reads it twice, reads the convolution's output three times, and writes the
    # gradient that the convolution's weights take: 2 bytes each; a scatter in float32 would move twice as many.
    values = 2 * 8 * 32 * 32 * 32
    assert parts["stem backward"]["bytes_moved"] < 2 * values * 9
    # bench.py step counts the same network without knowing of regions.
    from tools.benchmark.flops import step_flops

    config = configuration.load(ROOT / "rcfgs/ep100.yaml", [*TINY, "train.batch_size=8"])
    assert sum(part["flops"] for part in regions) == pytest.approx(step_flops(config), rel=1e-6)
