"""The crops' loops are compiled once, by a process that works while others import torch."""

import subprocess
import sys

from loaders import make_loader
from loaders.multicrop import compiling
from loaders.multicrop.colour import colour_crop
from tests.helpers.training import ROOT
from tests.loaders.test_loader import RECIPE

LOOP = """
import time
from loaders.numba_options import compiled


@compiled
def double(x):
    return x * 2
"""
# What is compiled for is the same for a small loop; crop_a_pixel has a test of its own.
COMMAND = """
import sys
sys.path.append(sys.argv[1])
from loop import double
from loaders.multicrop import compiling

compiling.colour_crop, compiling.crop_a_pixel = double, lambda: double(1.5)
if sys.argv[2] == "with_torch":
    import torch
compiling.begin()
begun = compiling._process is not None
compiling.wait()
assert double(1.5) == 3
print(begun, compiling._process, *double.stats.cache_hits.values())
"""


def run(folder, how: str = "alone", **environment: str) -> str:
    command = [sys.executable, "-c", COMMAND, str(folder), how]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_another_process_keeps_the_code_that_this_one_takes(tmp_path):
    (tmp_path / "loop.py").write_text(LOOP)
    assert run(tmp_path, "with_torch") == "False None"
    (tmp_path / "loop.py").write_text(LOOP + "\n")  # a new date: what was kept is forgotten
    assert run(tmp_path) == "True None 1"
    assert run(tmp_path) == "False None 1"


def test_a_pixel_has_the_types_of_all_crops(image_folder):
    with make_loader(image_folder, RECIPE, 12) as loader:
        next(iter(loader))
    before = list(colour_crop.signatures)
    compiling.crop_a_pixel()
    assert colour_crop.signatures == before and len(before) == 1
