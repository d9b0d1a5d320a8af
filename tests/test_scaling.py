"""The figures of docs/scaling.md are those of the real model."""

from pathlib import Path

import pytest
from torchvision.models import resnet50

from fastintl import config
from tools.benchmark.traffic import traffic

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "scaling.md").read_text()


@pytest.fixture(scope="module")
def recipe():
    return config.load(ROOT / "rcfgs" / "ep100.yaml")


def test_bytes_and_all_reduces_follow_from_torchvisions_model_and_the_projector(recipe):
    backbone = resnet50()
    backbone.fc = None
    projector = 2048 * 8192 + 2 * 8192 + 8192 * 8192 + 2 * 8192 + 8192 * 8192 + 8192
    parameters = sum(p.numel() for p in backbone.parameters()) + projector
    channels = sum(len(v) for k, v in backbone.state_dict().items() if k.endswith("running_mean")) + 2 * 8192
    found = traffic(recipe)
    assert found.gradients == 4 * parameters
    assert found.embeddings == 6 * 256 * 8192 * 2
    assert found.batchnorm == 6 * channels * 2 * (8 + 4)
    assert (found.all_reduces, found.all_reduces_view_by_view) == (55 + 55, 55 * 6 + 55 * 5)
    assert f"{parameters:,} x 4 bytes" in PAGE and f"{parameters - projector:,}"[:2] + ".5 million" in PAGE
    for size in (found.gradients, found.embeddings, found.batchnorm):
        assert f"| {size / 1e6:.1f} MB |" in PAGE


@pytest.mark.parametrize(
    "gpus, link, machines, bandwidth, latency",
    [
        (8, "NVLink", 8, 300e9, 20e-6),
        (64, "100 Gb/s", 8, 12.5e9, 50e-6),
        (64, "400 Gb/s", 8, 50e9, 50e-6),
        (256, "100 Gb/s", 32, 12.5e9, 50e-6),
        (256, "400 Gb/s", 32, 50e9, 50e-6),
    ],
)
def test_the_floor_is_the_formulas(recipe, gpus, link, machines, bandwidth, latency):
    found = traffic(recipe)
    floor = found.seconds(machines, bandwidth)
    seconds = [floor["gradients"], floor["gradients"] / 2, floor["embeddings"], floor["batchnorm"]]
    row = " | ".join(f"{1000 * s:.1f} ms" for s in [*seconds, found.all_reduces * latency])
    assert f"| {gpus} | {link} | {row} |" in PAGE
