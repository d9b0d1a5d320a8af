"""What a step keeps for its backward pass: counted as the process grows, and told where it is too much."""

import subprocess
import sys

import torch

from fastintl.config import load
from fastintl.distributed import World
from fastintl.training.step_memory import gpu_shortage, kept_bytes, least_gpu_bytes, shortage
from tests.helpers.training import ROOT

DEMO = load(ROOT / "rcfgs/demo.yaml", ["train.batch_size=256"])
CPU = World(0, 1, 0, torch.device("cpu"))

GROWTH = """
import torch
from fastintl.config import load
from fastintl.training.build import build_model

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

config = load("rcfgs/demo.yaml", ["train.batch_size=256"])
model = build_model(config.model)
views = [torch.randn(config.train.batch_size, 3, size, size) for size in config.crops.sizes]
model([view[:2] for view in views])[0].sum().backward()
before = resident()
embeddings = model(views)
print(resident() - before)
"""


def test_a_process_grows_by_what_is_counted():
    grown = subprocess.run([sys.executable, "-c", GROWTH], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert 0.9 < int(grown.stdout) / kept_bytes(DEMO) < 1.3


def test_a_cpu_with_too_little_memory_is_told():
    told = shortage(DEMO, CPU, torch.float32, 500_000_000)
    assert told.startswith("a step keeps 0.511 GB for its backward pass, and 0.5 GB are free: lower train.batch_size")
    assert shortage(DEMO, CPU, torch.float32, 600_000_000) is None
    for world in (World(0, 1, 0, torch.device("cuda", 0)), World(0, 2, 0, torch.device("cpu"))):
        assert shortage(DEMO, world, torch.float32, 1) is None


def test_a_gpu_that_cannot_hold_a_step_is_refused_with_the_cure():
    whole, again = (load(ROOT / "rcfgs/ep100.yaml", [f"train.recompute={word}"]) for word in ("off", "on"))
    needed = least_gpu_bytes(whole, 1, torch.bfloat16)
    assert 0.9 * 35.8e9 < needed < 35.8e9  # an H100's, docs/benchmarks/profile_h100.json
    told = gpu_shortage(whole, 1, needed, 24 << 30)
    assert told.startswith("a step of 256 images needs at least 33.2 GB of a GPU's memory, and this one has 25.8 GB: ")
    assert "train.recompute=on" in told and gpu_shortage(whole, 1, needed, 40 << 30) is None
    assert least_gpu_bytes(again, 1, torch.bfloat16) < 20e9
    assert least_gpu_bytes(whole, 8, torch.bfloat16) < needed / 4
