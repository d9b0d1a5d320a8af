"""The CPU engine against the definition (``reference.py``), and its centre crop against torchvision."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop as VisionCenterCrop
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms.functional import hflip, resized_crop

from loaders.multicrop import blur, colour, reference
from loaders.multicrop.cpu import CpuCenterCrop, CpuMultiCrop
from loaders.multicrop.draws import FLIP, draw
from loaders.recipe import CenterCrop, CropSpec, MultiCrop, random_crop_and_flip
from loaders.sources.decoded import DecodedBatch, packed

SIZES = [(120, 150), (40, 300), (300, 41), (64, 64), (5, 7), (1, 1), (1, 90)]
RECIPE = MultiCrop(
    (
        CropSpec(64, scale=(0.2, 1), hue=0.5, brightness=0.8),
        CropSpec(33, scale=(0.05, 0.5), blur=1.0),
        CropSpec(24, solarize=0.5, contrast=0.9, saturation=0.9),
        CropSpec(1, scale=(0.01, 1)),
    )
)


def decoded(count: int = 28, seed: int = 0) -> DecodedBatch:
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        height, width = SIZES[i % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
        pixels = np.asarray(coarse) + rng.normal(0, 10, (height, width, 3))
        images.append(torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8)))
    return packed(images, np.arange(count), np.arange(count) + 1000)


@pytest.mark.parametrize("threads, interpolation", [(1, "bicubic"), (2, "bicubic"), (2, "bilinear")])
def test_every_crop_agrees_with_the_reference(threads, interpolation):
    batch = decoded()
    engine = CpuMultiCrop(replace(RECIPE, interpolation=interpolation), threads)
    views = engine(batch, seed=3, epoch=2)
    draws = draw(RECIPE, 3, 2, batch.ids, batch.heights, batch.widths)
    levels = np.array(RECIPE.std) * 255
    for view, spec in enumerate(RECIPE.views):
        assert views[view].shape == (28, 3, spec.size, spec.size) and views[view].dtype == torch.float32
        assert views[view].is_contiguous(memory_format=torch.channels_last)
        for i, image in enumerate(batch.images):
            normalise = RECIPE.mean, RECIPE.std
            expected = reference.crop(image.numpy(), draws[i, view], spec.size, *normalise, interpolation)
            error = np.abs(views[view][i].permute(1, 2, 0).numpy() - expected) * levels
            # A level next to the solarising threshold may fall on either side of it.
            error = np.sort(error.reshape(-1))[: -max(3, error.size // 200)]
            if error.size:
                assert error.mean() < 1 and error.max() <= 4, (i, view, draws[i, view])


def test_threads_do_not_change_a_bit():
    one, many = (CpuMultiCrop(RECIPE, threads)(decoded(), 0, 0) for threads in (1, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_an_untouched_crop_is_the_normalised_image():
    recipe = MultiCrop((CropSpec(64, (1, 1), (1, 1), flip=0, jitter=0, grayscale=0, blur=0, solarize=0),))
    batch = decoded(count=4, seed=1)
    view = CpuMultiCrop(recipe, 1)(batch, 0, 0)[0][3]  # image 3 is 64 x 64
    expected = Normalize(recipe.mean, recipe.std)(ToTensor()(batch.images[3].numpy()))
    torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("least_area, interpolation", [(0.08, "bicubic"), (0.6, "bicubic"), (0.08, "bilinear")])
def test_a_probes_crop_is_torchvisions_resized_crop_of_the_drawn_box(least_area, interpolation):
    recipe, batch = random_crop_and_flip(24, least_area=least_area, interpolation=interpolation), decoded()
    views = CpuMultiCrop(recipe, 1)(batch, 0, 0)[0]
    boxes = draw(recipe, 0, 0, batch.ids, batch.heights, batch.widths)[:, 0]
    assert 0 < boxes[:, FLIP].mean() < 1
    areas = boxes[:, 2] * boxes[:, 3] / (batch.heights * batch.widths)
    wide = np.maximum(batch.heights / batch.widths, batch.widths / batch.heights) > 2  # no crop of 60 % fits its ratio
    assert (areas[~wide].min() > 0.55) == (least_area == 0.6)  # sides are whole pixels
    for view, image, row in zip(views, batch.images, boxes, strict=True):
        top, left, height, width = row[:4].astype(int).tolist()
        image = Image.fromarray(image.numpy())
        pixels = resized_crop(image, top, left, height, width, [24, 24], InterpolationMode(interpolation))
        expected = Normalize(recipe.mean, recipe.std)(ToTensor()(hflip(pixels) if row[FLIP] else pixels))
        error = (view - expected).abs() * 255 * torch.tensor(recipe.std)[:, None, None]
        assert error.max() < 2.01 and error.mean() < 0.5


CENTRES = [(64, 56, "bilinear"), (48, 48, "bilinear"), (37, 20, "bilinear"), (70, 64, "bicubic"), (37, 20, "bicubic")]


@pytest.mark.parametrize("resize, size, interpolation", CENTRES)
def test_centre_crop_is_torchvisions(resize, size, interpolation):
    batch = decoded()
    views = CpuCenterCrop(CenterCrop(resize, size, interpolation=interpolation), 2)(batch, 0, 0)
    assert len(views) == 1 and views[0].is_contiguous(memory_format=torch.channels_last)
    steps = [Resize(resize, InterpolationMode(interpolation), antialias=True), VisionCenterCrop(size), ToTensor()]
    vision = Compose([*steps, Normalize(CenterCrop().mean, CenterCrop().std)])
    for view, image in zip(views[0], batch.images, strict=True):
        difference = (view - vision(Image.fromarray(image.numpy()))).abs()
        error = difference * 255 * torch.tensor(CenterCrop().std)[:, None, None]
        # torch's weights have 16 bits, of which the cubic's negative ones leave fewer.
        assert error.max() < (1.01 if interpolation == "bilinear" else 2.01) and error.mean() < 0.5


def test_each_loop_has_one_machine_code():
    """A second takes a second more to compile, and may round differently."""
    CpuMultiCrop(RECIPE, threads=1)(decoded(7), seed=0, epoch=0)
    loops = [loop for module in (blur, colour) for loop in vars(module).values() if hasattr(loop, "signatures")]
    assert len(loops) > 20 and max(len(loop.signatures) for loop in loops) == 1
