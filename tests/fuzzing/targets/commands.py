"""Command lines of the tools, put together from right and wrong words: a result, or one sentence and a status."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from fastintl.network.model import build_backbone
from tests.fuzzing import check_sentence
from tools import doctor, export, features, finetune, knn, linear, report

TOOLS = {tool.__name__.rpartition(".")[2]: tool for tool in (export, features, finetune, knn, linear, report)}
TOOLS["doctor"] = doctor  # show_crops draws through every source, some of which take minutes to compile
_numbers = ["0", "1", "2", "3", "-1", "1.5", "nan", "inf", "1e30", "99999999999999999999", "", "x", "1,2"]
_PLACES = ["weights.pt", "train", "val", "other", "nothing", ".", "weights.pt/x", "a\nb", "[red]", "empty", "out.json"]
_OPTIONS = {
    "--k": _numbers, "--temperature": _numbers, "--memory": _numbers, "--batch-size": _numbers, "--threads": _numbers,
    "--resize": ["12", *_numbers], "--size": ["8", *_numbers], "--lr": _numbers, "--epochs": ["1", "0", "-1", "x"],
    "--weight-decay": _numbers, "--percent": _numbers, "--seed": _numbers, "--crop-area": _numbers,
    "--lr-backbone": _numbers,
    "--eval-every": _numbers, "--save-minutes": _numbers, "--ranks": ["1", "0", "-1", "x"],
    "--arch": ["resnet8", "resnet18", "", "resnet81", "[b]"], "--stem": ["small", "cifar", "x"],
    "--metric": ["cosine", "x"], "--vote": ["weighted"], "--protocol": ["small", "quick", "imagenet", "x"],
    "--source": ["folder", "memory", "dali", "x"], "--train": _PLACES, "--val": _PLACES, "--data": _PLACES,
    "--out": ["out", "out.pt", "out.png", *_PLACES], "--json": ["out.json", *_PLACES], "--results": _PLACES,
    "--rcfg": _PLACES, "--subset": _PLACES, "--features": ["cache", *_PLACES],
    "--target": None, "--sweep": None, "--frozen": None, "--from-scratch": None, "--flip-average": None,
}  # fmt: skip
_BASE = {
    "knn": ["weights.pt", "--train", "train", "--val", "val"],
    "linear": ["weights.pt", "--train", "train", "--val", "val", "--protocol", "small", "--epochs", "1"],
    "finetune": ["weights.pt", "--train", "train", "--val", "val", "--percent=50", "--batch-size=2", "--epochs=1"],
    "features": ["weights.pt", "--data", "val", "--out", "kept"],
    "export": ["weights.pt", "--out", "out.pt"],
    "report": ["train"],
    "doctor": ["--rcfg", "nothing"],
}  # fmt: skip


@st.composite
def _lines(draw: st.DrawFn) -> list[str]:
    tool = draw(st.sampled_from(sorted(TOOLS)))
    words = [tool, *_BASE[tool]]
    for option in draw(st.lists(st.sampled_from(sorted(_OPTIONS)), max_size=2)):
        words += [option] if _OPTIONS[option] is None else [f"{option}={draw(st.sampled_from(_OPTIONS[option]))}"]
    return words


examples = _lines()
IN_SUITE = 15


def check(example: list[str]) -> None:
    tool, *words = example
    if tool in ("knn", "linear", "finetune", "features"):
        words += ["--device", "cpu", "--source=folder", "--threads=1"]
        words[1:1] = ["--arch=resnet8", "--stem=small", "--resize=12", "--size=8"]
    errors, screen, before = io.StringIO(), io.StringIO(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        os.chdir(folder)
        try:
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(screen):
                TOOLS[tool].main(words)
        except SystemExit as end:
            if end.code not in (0, None):
                assert end.code == 2
                check_sentence(errors.getvalue().splitlines()[-1])
        finally:
            os.chdir(before)


def write(folder: Path) -> None:
    """Twelve images of two classes and a file of weights."""
    for split in ("train", "val", "other"):
        for i in range(6):
            path = folder / split / f"class{i % 2 + (split == 'other')}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (14, 12, 3), np.uint8)).save(path)
    (folder / "empty").mkdir()
    (folder / "weights.pt").write_bytes(weights())


@functools.cache
def weights() -> bytes:
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save({"arch": "resnet8", "state_dict": build_backbone("resnet8", "small").state_dict()}, file)
    return file.getvalue()
