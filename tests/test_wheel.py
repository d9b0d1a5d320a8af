"""The wheel, built and installed into an environment of its own, works from a folder where nothing else is.

The environment sees the packages that the tests' own one has, and not the clone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT
from tests.helpers.images import write_image

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "fastintl", "loaders", "tools", "rcfgs")
# What mypy is to find of everything that a user's ten lines name.
SCRIPT = """
import torch
from fastintl import INTLLoss, __version__, load_backbone
from fastintl.evaluate.nearest import knn
from loaders import CropSpec, MultiCrop, make_loader

loss, backbone = INTLLoss(), load_backbone("runs/mine")
for batch in make_loader("images", MultiCrop((CropSpec(32), CropSpec(32))), batch_size=64):
    value = loss([backbone(view) for view in batch.views])
labels = knn.predict(torch.rand(9, 3), torch.zeros(9, dtype=torch.int64), torch.rand(2, 3))
"""
TYPES = {
    "loss": "fastintl.losses.intl.INTLLoss",
    "backbone": "fastintl.network.model.Backbone",
    "batch": "loaders.loader.Batch",
    "batch.views": "list[torch._tensor.Tensor]",
    "value": "torch._tensor.Tensor",
    "labels": "torch._tensor.Tensor | dict[int, torch._tensor.Tensor]",
    "__version__": "str",
}
TEXT = {"capture_output": True, "text": True, "check": True}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """A folder with images, beside ``venv/`` with the wheel."""
    root = tmp_path_factory.mktemp("installed")
    source = root / "source"  # a copy: a build leaves things behind
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", root, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    python = root / "venv/bin/python"
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **TEXT).stdout
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site.strip()) / "shared.pth").write_text("\n".join(shared))
    (wheel,) = root.glob("fastintl-*.whl")
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], check=True)
    place = root / "place"
    for part in ("train", "val"):
        for i in range(24):
            write_image(place / "images" / part / f"class{i % 3}" / f"{i:03}.jpg", 40, 48, seed=i)
    return place


def run(place: Path, *words: object, status: int = 0) -> str:
    """What a program of the environment prints, errors included."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FASTINTL"))}
    program = place.parent / "venv/bin" / str(words[0])
    ended = subprocess.run(
        [program, *map(str, words[1:])], cwd=place, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    assert ended.returncode == status, ended.stdout
    return ended.stdout


@pytest.mark.slow
def test_commands_anywhere(elsewhere):
    import fastintl

    assert run(elsewhere, "fastintl", "--version") == f"fastintl {fastintl.__version__}\n"
    for package in ("fastintl", "fastintl.tools", "loaders"):
        file = run(elsewhere, "python", "-c", f"import {package}; print({package}.__file__)")
        assert file.startswith(str(elsewhere.parent / "venv")), file
    assert "did you mean ep100" in run(elsewhere, "fastintl", "train", "--rcfg", "ep10", status=2)
    small = ("train.max_steps=2", "train.batch_size=8", "model.projector=[32,32]", "eval.baselines=false")
    out = run(elsewhere, "fastintl", "train", "--rcfg", "demo", "data.root=images", "data.source=folder", *small)
    assert "results in runs/demo" in out
    data = ("--train", "images/train", "--val", "images/val", "--rcfg", "eval/knn_5", "--json", "knn.json")
    run(elsewhere, "fastintl", "knn", "runs/demo", "--source", "folder", "--device", "cpu", *data)
    assert json.loads((elsewhere / "knn.json").read_text())["task"] == "k-NN"


def test_every_recipe_and_command_is_in_the_wheel(elsewhere):
    names = "from fastintl.config.recipes import own_recipes; print(*own_recipes())"
    recipes = {str(path.relative_to(ROOT / "rcfgs").with_suffix("")) for path in (ROOT / "rcfgs").rglob("*.yaml")}
    assert set(run(elsewhere, "python", "-c", names).split()) == recipes
    every = "from fastintl.tools.__main__ import COMMANDS; print(*COMMANDS)"
    for name in run(elsewhere, "python", "-c", every).split():
        help_text = run(elsewhere, "fastintl", name, "--help")
        assert help_text.startswith(f"usage: fastintl {name} ") and "tools/" not in help_text
    assert "usage: fastintl bench loader" in run(elsewhere, "fastintl", "bench", "loader", "--help")


@pytest.mark.slow
def test_a_checker_sees_the_types(elsewhere):
    pytest.importorskip("mypy")
    (elsewhere / "user.py").write_text(SCRIPT + "".join(f"reveal_type({name})\n" for name in TYPES))
    python = elsewhere.parent / "venv/bin/python"
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, "user.py"]
    ended = subprocess.run(mypy, cwd=elsewhere, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shown = [line.split('"')[1] for line in ended.stdout.splitlines() if "Revealed type" in line]
    assert shown == list(TYPES.values())
