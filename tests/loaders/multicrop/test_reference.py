"""The definition of a crop against Pillow and torchvision, operation by operation, in grey levels."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from loaders.multicrop import reference


def noisy_image(height: int = 61, width: int = 83, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise and hard edges: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(coarse).astype(int) + rng.integers(-20, 21, (height, width, 3))
    pixels[height // 3 : height // 2] = 255 - pixels[height // 3 : height // 2]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def levels(a: np.ndarray, b) -> np.ndarray:
    b = b.permute(1, 2, 0).numpy() if isinstance(b, torch.Tensor) else np.asarray(b)
    return np.abs(a * 255.0 - b)


@pytest.mark.parametrize("source", [(61, 83), (300, 200), (17, 400), (5, 4), (1, 1)])
@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resize_is_pillows_and_torchvisions(source, size, interpolation):
    image = noisy_image(*source)
    ours = reference.resize(image, size, interpolation)
    pillow = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling[interpolation.upper()]))
    vision = F.resize(as_tensor(image), [size, size], F.InterpolationMode(interpolation), antialias=True)
    for other in (pillow, vision.permute(1, 2, 0).numpy()):
        error = np.abs(ours - other)
        assert error.mean() < 0.05 and error.max() <= 2


FACTORS = (0.6, 0.93, 1.0, 1.4)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    "ours, vision, pillow",
    [
        (reference.brightness, F.adjust_brightness, ImageEnhance.Brightness),
        (reference.contrast, F.adjust_contrast, ImageEnhance.Contrast),
        (reference.saturation, F.adjust_saturation, ImageEnhance.Color),
    ],
)
def test_jitter_operations(ours, vision, pillow, factor):
    image = noisy_image()
    result = ours(image / 255, factor)
    exact = vision(as_tensor(image / 255), factor) * 255
    assert levels(result, exact).max() < 0.01
    rounded = pillow(Image.fromarray(image)).enhance(factor)
    assert levels(result, rounded).mean() < 1 and levels(result, rounded).max() <= 2.5


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.03, 0.0, 0.07, 0.1, 0.5])
def test_hue(shift):
    image = noisy_image()
    assert levels(reference.hue(image / 255, shift), F.adjust_hue(as_tensor(image / 255), shift) * 255).max() < 0.01


def test_hue_of_grey_and_primary_colours():
    image = np.array([[[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]], float)
    vision = F.adjust_hue(as_tensor(image), 1 / 3).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(reference.hue(image, 1 / 3), vision, atol=1e-6)


def test_grey():
    image = noisy_image()
    ours = np.repeat(reference.grey(image / 255), 3, axis=2)
    assert levels(ours, F.rgb_to_grayscale(as_tensor(image / 255), 3) * 255).max() < 0.1
    assert levels(ours, Image.fromarray(image).convert("L").convert("RGB")).max() <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur(sigma):
    image = noisy_image()
    ours = reference.blur(image / 255, sigma)
    taps = len(reference.blur_kernel(sigma))
    assert levels(ours, F.gaussian_blur(as_tensor(image / 255), [taps, taps], [sigma, sigma]) * 255).max() < 0.01
    wide = F.gaussian_blur(as_tensor(image / 255), [23, 23], [sigma, sigma]) * 255  # not cut at three deviations
    assert levels(ours, wide).mean() < 0.2
    if sigma >= 0.5:  # Pillow approximates with box filters and repeats the border
        pillow = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        assert levels(ours, pillow)[8:-8, 8:-8].mean() < 1


def test_solarize():
    image = noisy_image()
    ours = reference.solarize(image / 255)
    assert levels(ours, ImageOps.solarize(Image.fromarray(image), 128)).max() < 1e-9
    assert levels(ours, F.solarize(as_tensor(image), 128)).max() < 1e-9
