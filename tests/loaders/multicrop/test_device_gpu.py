"""The device engine on a real GPU: at full size, without waiting, and behind the loader's side stream."""

import numpy as np
import pytest
import torch

from loaders import make_loader
from loaders.multicrop.cpu import CpuMultiCrop
from loaders.multicrop.device import IMPLEMENTATIONS, DeviceMultiCrop
from loaders.recipe import CropSpec, MultiCrop
from loaders.sources.decoded import DecodedBatch, packed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

RECIPE = MultiCrop(tuple(CropSpec(size, blur_sigma=(0.1, 3.0)) for size in (224, 192, 160, 128, 96)))


def decoded(count: int) -> DecodedBatch:
    rng = np.random.default_rng(0)
    images = []
    for i in range(count):
        coarse = torch.from_numpy(rng.normal(128, 60, (1, 3, 12, 12)).astype(np.float32))
        size = [(375, 500), (500, 333), (96, 120), (700, 60)][i % 4]
        fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0]
        images.append((fine + torch.randn(fine.shape) * 10).clamp(0, 255).byte().permute(1, 2, 0).contiguous())
    return packed(images, np.arange(count), np.arange(count))


def assert_same_crops(views: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 0) -> None:
    """Within one grey level in the mean and four apart, but for values next to the solarising threshold.

    Args:
        tolerance: of the views' type, relative.
    """
    for view, wanted in zip(views, expected, strict=True):
        error = (view.cpu().float() - wanted).abs() - tolerance * wanted.abs()
        error = error.clamp(min=0) * 255 * torch.tensor(RECIPE.std)[:, None, None]
        for one in error.flatten(1):
            one = one.sort().values[: -(one.numel() // 200)]
            assert one.mean() < 1 and one.max() <= 4


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype, digits", [(torch.float32, 24), (torch.bfloat16, 8), (torch.float16, 11)])
def test_full_size_crops_are_the_cpu_engines(implementation, dtype, digits):
    batch = decoded(32)
    views = DeviceMultiCrop(RECIPE, "cuda", dtype, implementation)(batch.to(torch.device("cuda")), 1, 4)
    assert all(view.dtype == dtype and view.is_cuda for view in views)
    assert_same_crops(views, CpuMultiCrop(RECIPE, 4)(batch, 1, 4), 2.0**-digits)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_waits_for_the_gpu(implementation):
    batch = decoded(8).to(torch.device("cuda"))
    engine = DeviceMultiCrop(RECIPE, "cuda", torch.bfloat16, implementation)
    engine(batch, 0, 0)  # compiles, and fills the allocators
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for epoch in range(3):
            engine(batch, 0, epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batches_in_flight_do_not_disturb_each_other():
    """Tables and work buffers of a batch are given back while its kernels still run."""
    batch = decoded(16).to(torch.device("cuda"))
    engine = DeviceMultiCrop(RECIPE, "cuda", torch.bfloat16)
    queued = [engine(batch, 0, epoch) for epoch in range(8)]
    torch.cuda.synchronize()
    for epoch, views in enumerate(queued):
        alone = engine(batch, 0, epoch)
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(views, alone, strict=True))


def test_the_loaders_side_stream_gives_the_cpu_engines_crops(image_beton):
    recipe = MultiCrop((CropSpec(64), CropSpec(40)))
    loaders = [make_loader(image_beton, recipe, 12, source="memory", device=device) for device in ("cuda", "cpu")]
    for there, here in zip(*loaders, strict=True):
        assert np.array_equal(there.ids.cpu(), here.ids)
        assert all(view.device.type == "cuda" for view in there.views)
        assert_same_crops(there.views, here.views)
    for loader in loaders:
        loader.close()
