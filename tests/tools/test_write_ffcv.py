"""The command as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.beton.file import BetonFile
from tests.helpers import warm_python

TOOL = Path(__file__).resolve().parents[2] / "tools" / "write_ffcv.py"


def run(*arguments, cwd: Path, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    variables = {key: value for key, value in os.environ.items() if key != "FASTINTL_DATA"}
    return warm_python.run(command, cwd=cwd, env={**variables, **environment})


@pytest.fixture
def images(tmp_path) -> Path:
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (40, 80, 3), np.uint8)).save(root / name / f"{i}.jpg")
    (root / "a" / "page.jpg").write_text("<html>")
    return root


def test_folder_end_to_end(images, tmp_path):
    arguments = (
        "folder",
        "--root",
        images,
        "--out",
        "out",
        "--json",
        "reports/r.json",
        "--val-share",
        "0.3",
    )
    result = run(*arguments, "--longest-side", "50", "--quality", "80", "--threads", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    reports = json.loads((tmp_path / "reports" / "r.json").read_text())
    assert [report["file"] for report in reports] == ["out/folder_train.beton", "out/folder_val.beton"]
    assert sum(report["images"] for report in reports) == 40
    assert sum(report["skipped"] for report in reports) == 1
    assert "left out 1 that cannot be read" in result.stdout and "quarantine.txt says why" in result.stdout
    for report in reports:
        assert re.search(rf"{report['file']} +{report['images']} ", result.stdout)
        file = BetonFile(tmp_path / report["file"])
        assert (file.widths == 50).all() and (file.heights == 25).all() and (file.modes == 0).all()
        assert file.classes == ["a", "b"]
        assert [file.classes[label] for label in file.labels] == [name[0] for name in file.names]
    again = run(*arguments, "--longest-side", "50", "--quality", "80", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count("was finished before") == 2
    other = run(*arguments, cwd=tmp_path)
    assert other.returncode == 2 and "remove it or give another --out" in other.stderr


def test_raw(images, tmp_path):
    assert run("folder", "--root", images, "--raw", cwd=tmp_path).returncode == 0
    file = BetonFile(tmp_path / "data" / "folder_train.beton")
    assert (file.modes == 1).all() and file.sizes[0] == 40 * 80 * 3


def test_demo(tmp_path):
    result = run("demo", "--out", tmp_path, "--seed", "3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for part, count in (("train", 4800), ("val", 1200)):
        file = BetonFile(tmp_path / f"demo_{part}.beton")
        assert len(file) == count and (file.modes == 0).all() and len(file.classes) == 12
        assert (np.bincount(file.labels) == count // 12).all()
        assert (file.heights == 64).all() and (file.widths == 64).all()


def test_all_images_train_where_none_are_held_out_but_not_beside_those_of_an_earlier_conversion(images, tmp_path):
    words = ["folder", "--root", "images", "--val-share", "0"]
    assert run(*words, cwd=tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "data").glob("*.beton")] == ["folder_train.beton"]
    assert run("folder", "--root", "images", "--out", "cut", cwd=tmp_path).returncode == 0
    refused = run(*words, "--out", "cut", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: cut/folder_val.beton has held out images that folder_train.beton would")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["imagenet"], "data/imagenet; imagenet expects ROOT/train/<wnid>/"),
        (["imagenet100"], "data/imagenet; "),
        (["cifar10", "--root", "nowhere"], "nowhere; cifar10 expects"),
        (["imagnet"], "no dataset named imagnet; known: "),
        (["folder", "--root", "images", "--quality", "0"], "--quality 0"),
        (["folder", "--root", "images", "--longest-side", "-1"], "--longest-side -1"),
        (["folder", "--root", "images", "--threads", "-1"], "--threads -1"),
        (["folder", "--root", "images", "--val-share", "2"], "--val-share 2"),
        (["folder", "--root", "images", "--out", "images/a/0.jpg"], "cannot be written: "),
        (["folder", "--root", "images", "--json", "images"], "images cannot be written: "),
    ],
)
def test_mistakes_get_one_sentence(images, tmp_path, arguments, words):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr


def test_root_from_the_environment(tmp_path):
    result = run("imagenet", cwd=tmp_path, FASTINTL_DATA="/some/place")
    assert result.returncode == 2 and "/some/place/imagenet" in result.stderr


def test_help_names_every_data_set_without_heavy_imports(tmp_path):
    from loaders.datasets.catalogue import NAMES

    result = run("--help", cwd=tmp_path)
    assert result.returncode == 0 and all(f"\n  {name} " in result.stdout for name in NAMES)
    code = f"sys.argv = ['x', '-h']; runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    modules = "'torch' in sys.modules, 'numpy' in sys.modules"
    code = f"import runpy, sys\ntry:\n    {code}\nfinally:\n    print({modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False False", result.stderr
