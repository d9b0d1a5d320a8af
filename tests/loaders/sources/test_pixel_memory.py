"""Every source's memory goes by the sum of a batch's pixels, not by its largest image."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from loaders.beton.convert import convert
from loaders.beton.encoding import Storage
from loaders.datasets.folder import class_tree
from loaders.sources import open_images
from loaders.sources.choice import open_source
from loaders.sources.pixel_buffer import PixelBuffer, pixel_memory
from loaders.sources.quarantine import Quarantine
from tests.helpers.decoding import IDS
from tests.helpers.images import write_image

# A process of its own for each source, forked after the imports, since memory that was freed may stay with it. What is
# compiled or started is there after a first pass over small images; what the second pass grows by are buffers.
MEASURE = """
import json, os, sys
from pathlib import Path
import numpy as np
import torch
import loaders.sources.beton, loaders.sources.dali
from loaders.sources import open_images
from loaders.sources.choice import open_source
from loaders.sources.nvjpeg import NvjpegSource
from loaders.sources.quarantine import Quarantine

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

def measure(name, path):
    images = open_images(path)
    quarantine = Quarantine(images.path, len(images), 0.05)
    if name == "nvjpeg":
        source = NvjpegSource(images, 2, quarantine, torch.device("cpu"))
    else:
        source, _ = open_source(images, name, 2, quarantine)
    small, all_of_them = np.arange(16), np.arange(17)
    for batch in source.batches([small, small]):
        pass
    batch, before = None, status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for batch in source.batches([all_of_them, small]):
        pixels = int((batch.heights * batch.widths * 3).sum())
        yield pixels, batch.pixels.untyped_storage().nbytes(), status("VmHWM") - before

for how in sys.argv[2:]:
    if os.fork() == 0:
        name, _, ending = how.partition(".")
        print(json.dumps([how, list(measure(name, sys.argv[1] + how[len(name):]))]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def one_huge_image(tmp_path_factory) -> Path:
    """A folder of 16 images of half a megapixel and one of 100, and the same as a file."""
    root = tmp_path_factory.mktemp("huge")
    for i in range(16):
        write_image(root / "data" / "class" / f"{i:02}.jpg", 600 + i, 800 - i, seed=i)
    Image.new("RGB", (10000, 10000), "red").save(root / "data" / "class" / "huge.jpg")
    convert(class_tree(root / "data"), root / "data.beton", Storage(longest_side=0))
    return root / "data"


def test_one_huge_image_costs_twice_its_pixels_at_most(one_huge_image):
    pytest.importorskip("ffcv")
    pytest.importorskip("nvidia.dali")
    sources = ["folder", "folder.beton", "dali", "dali.beton", "ffcv.beton", "nvjpeg"]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, one_huge_image, *sources], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    measured = dict(map(json.loads, result.stdout.splitlines()))
    assert list(measured) == sources
    for source, batches in measured.items():
        assert [pixels > 300e6 for pixels, _, _ in batches] == [True, False]
        for pixels, buffer, _ in batches:
            assert buffer <= 2 * pixels, f"{source}: {buffer / 1e6:.0f} MB for {pixels / 1e6:.0f} MB of pixels"
        pixels, _, peak = batches[0]
        if source != "nvjpeg":  # which has another decoder on the CPU
            assert peak < 2 * pixels + 40e6, f"{source}: {peak / 1e6:.0f} MB for {pixels / 1e6:.0f} MB of pixels"


def test_a_large_png_is_turned_into_rgb_in_strips(tmp_path):
    """Pillow's own image, four bytes a pixel, and ours, three: not also copies of both."""
    Image.new("RGBA", (8000, 5000), "red").save(tmp_path / "large.png")
    code = """
import sys
from pathlib import Path
from loaders.sources.decode import decode_image
peak = lambda: next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
data = Path(sys.argv[1]).read_bytes()
Path("/proc/self/clear_refs").write_text("5")
before, pixels = peak(), decode_image(data)
assert (pixels[..., 0] == 255).all() and not pixels[..., 1:].any()
print((peak() - before) / pixels.numel())
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "large.png"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2.8  # 2.33, with copies 4.6


def test_a_buffer_is_used_again_and_given_back_when_it_is_far_too_large():
    buffer = PixelBuffer(pinned=False)
    first = buffer.take(4 << 20)
    assert buffer.take(5 << 20).data_ptr() == first.data_ptr()  # there is some room
    assert len(buffer.take(300 << 20)) == 300 << 20
    assert buffer.take(4 << 20).untyped_storage().nbytes() <= 8 << 20
    assert len(buffer.take(1)) == 1
    assert buffer.take(1).dtype == torch.uint8


def test_what_goes_to_a_gpu_is_pinned(image_beton, monkeypatch):
    """Or the host waits for every copy. Without a GPU only the wish can be seen."""
    pytest.importorskip("ffcv")
    asked, images = [], open_images(image_beton)

    def watched(size: int, pinned: bool) -> torch.Tensor:
        asked.append(pinned)
        return pixel_memory(size, pinned and torch.cuda.is_available())

    monkeypatch.setattr("loaders.sources.pixel_buffer.pixel_memory", watched)
    for device in ("cuda", "cpu"):
        source, _ = open_source(images, "ffcv", 1, Quarantine(images.path, 60, 0.1), torch.device(device))
        for batch in source.batches(IDS):
            assert batch.pixels.is_pinned() == (device == "cuda" and torch.cuda.is_available())
        source.close()
        assert set(asked) == {device == "cuda"}
        asked.clear()
