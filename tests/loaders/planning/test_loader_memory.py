"""The doctor's bound of a loader's memory against what a real loader takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loaders.beton.convert import convert
from loaders.datasets.folder import class_tree
from loaders.planning.data_facts import DataFacts
from loaders.planning.loader_memory import loader_memory
from loaders.recipe import CropSpec, MultiCrop
from tests.helpers.images import write_image

# A process of its own per source, forked after the imports: what it grows by are compiled code and buffers.
MEASURE = """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
import loaders.sources.beton, loaders.sources.dali
from loaders import CropSpec, MultiCrop, make_loader
from loaders.planning.data_facts import data_facts
from loaders.planning.loader_memory import loader_memory
from loaders.sources import open_images

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

def grow(source):
    recipe, before = MultiCrop((CropSpec(128), CropSpec(128), CropSpec(96))), status("VmRSS")
    loader = make_loader(sys.argv[2], recipe, 32, source=source, threads=2)
    announced = loader_memory(source, data_facts(open_images(sys.argv[2])), recipe, 32, threads=2).total
    for _ in range(3):
        for batch in loader:
            time.sleep(0.05)  # the loader gets as far ahead as it may
    return status("VmHWM") - before, announced  # the peak, which counts from the fork

for source in sys.argv[3:]:
    if os.fork() == 0:
        print(json.dumps([source, *grow(source)]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.fixture
def large_images(tmp_path) -> Path:
    for i in range(96):
        write_image(tmp_path / "data" / "class" / f"{i}.jpg", 360 + i, 480 - i, seed=i)
    convert(class_tree(tmp_path / "data"), tmp_path / "data.beton")
    return tmp_path / "data.beton"


def test_a_loader_stays_within_the_announced_memory_and_uses_much_of_it(large_images):
    pytest.importorskip("ffcv")
    pytest.importorskip("nvidia.dali")
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", MEASURE, root, large_images, "ffcv", "dali", "memory", "folder"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [source for source, _, _ in found] == ["ffcv", "dali", "memory", "folder"]
    for source, grown, announced in found:
        assert announced / 4 < grown < announced, f"{source}: {grown / 1e6:.0f} MB of {announced / 1e6:.0f} MB"


def test_one_huge_image_does_not_multiply_by_the_batch():
    facts = DataFacts(
        images=1000, classes=2, sampled=0, unreadable=0, stored=100_000_000, jpegs=1.0, mean_size=(400.0, 500.0),
        largest_size=(10000, 10000), decoded=900_000_000, image_mean=900e3, image_deviation=9.5e6,
        image_most=300_000_000,
    )  # fmt: skip
    recipe, batch = MultiCrop((CropSpec(128), CropSpec(96))), 256 * 900_000 + 256 * 9_500_000
    views = 4 * 256 * (128**2 + 96**2) * 3 * 2
    for source in ("ffcv", "dali", "memory", "folder", "nvjpeg"):
        memory = loader_memory(source, facts, recipe, 256, threads=8, on_gpu=True, view_bytes=2)
        pixels = facts.decoded if source == "memory" else 256 * 900_000 + facts.image_most  # a batch that has the image
        assert pixels + views < memory.on_gpu < 4 * batch + views
        assert 0 < memory.total < 8 * batch
        if source != "nvjpeg":
            assert facts.image_most < loader_memory(source, facts, recipe, 256, threads=8).total < 5 * batch
