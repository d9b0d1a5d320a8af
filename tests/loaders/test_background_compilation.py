"""The crops' loops are compiled once, by a process that works while others import torch."""

import subprocess
import sys

from loaders import make_loader
from loaders.multicrop import background_compilation
from loaders.multicrop.colour import colour_crop
from loaders.numba_options import is_yet_to_be_kept
from tests.helpers.training import ROOT
from tests.loaders.test_loader import RECIPE

LOOP = """
from loaders.numba_options import compiled


@compiled
def double(x):
    return x * 2
"""
# A small loop, since the crops' take ten seconds to compile.
COMMAND = """
import sys
sys.path.append(sys.argv[1])
from loop import double
from loaders.multicrop import background_compilation
from loaders.startup import late_imports

background_compilation.colour_crop, background_compilation.crop_a_pixel = double, lambda: double(1.5)
for device in (None, "cuda", "auto"):
    with late_imports(crops_on=device):
        assert background_compilation._process is None
with late_imports(crops_on="cpu"):
    print(background_compilation._process.is_alive())
background_compilation.wait()
print(background_compilation._process, double(1.5), *double.stats.cache_hits.values())
background_compilation.begin()
print(background_compilation._process)
"""


def test_another_process_keeps_the_code_that_this_one_takes(tmp_path):
    (tmp_path / "loop.py").write_text(LOOP)
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True", "None 3.0 1", "None"]


def test_beside_torch_nothing_is_forked(monkeypatch):
    monkeypatch.setattr(background_compilation, "is_yet_to_be_kept", lambda function: True)
    background_compilation.begin()
    assert background_compilation._process is None


def test_a_pixel_has_the_types_of_all_crops(image_folder):
    with make_loader(image_folder, RECIPE, 12) as loader:
        next(iter(loader))
    before = list(colour_crop.signatures)
    background_compilation.crop_a_pixel()
    assert colour_crop.signatures == before and len(before) == 1
    assert not is_yet_to_be_kept(colour_crop)
