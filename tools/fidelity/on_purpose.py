"""How much it changes what we do otherwise than the authors on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as functional
from PIL import Image, ImageFilter
from torch import Tensor

from fastintl.config import load
from fastintl.data import multi_crop
from fastintl.network.model import build_backbone
from fastintl.training.step import TrainingStep
from loaders.multicrop import draws, reference
from tools.fidelity.checkouts import RECIPES
from tools.fidelity.images import Part
from tools.fidelity.steps import ALONE

_IMAGES, _BICUBIC = 256, Image.Resampling.BICUBIC

_OPERATIONS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


def measure(train: Part, photographs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """``what`` is done otherwise, and the ``size`` of the difference in its ``unit``.

    Args:
        train: small images.
        photographs: may be none; then what differs on ImageNet is left out.
    """
    chosen = train.pixels[torch.linspace(0, len(train.pixels) - 1, _IMAGES).long()]
    views = chosen.permute(0, 3, 1, 2).float() / 127.5 - 1
    rows = [crop_before_colours(chosen), bfloat16([views, views.flip(3)])]
    if photographs:
        crops = [Image.fromarray(image.numpy()).resize((224, 224), _BICUBIC) for image in photographs[:_IMAGES]]
        rows += [*gaussian_blur(crops), batchnorm_of_all(torch.stack([functional.to_tensor(crop) for crop in crops]))]
    return rows


def crop_before_colours(images: Sequence[Tensor]) -> dict[str, Any]:
    """The views of ``cw_rgp/cifar10_2`` by torchvision, with the crop behind the colours, as the authors have it, and
    before them, as we do: their mean absolute difference in grey levels."""
    recipe = multi_crop(load(RECIPES / "cw_rgp/cifar10_2.yaml").crops)
    sizes = np.array([image.shape[:2] for image in images])
    table = draws.draw(recipe, 0, 0, np.arange(len(images)), *sizes.T)
    differences = []
    for image, rows in zip(images, table, strict=True):
        for spec, row in zip(recipe.views, rows, strict=True):
            given = Image.fromarray(image.numpy())
            behind, before = (
                _cropped(_coloured(given, row), row, spec.size),
                _coloured(_cropped(given, row, spec.size), row),
            )
            differences.append(np.abs(np.asarray(behind, float) - np.asarray(before, float)).mean())
    return {
        "what": "crop before the colours, not behind them (CW-RGP, small images)",
        "unit": "grey levels",
        "size": float(np.mean(differences)),
    }


def gaussian_blur(crops: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Crops under Pillow's approximate blur and under the Gaussian: how far they lie apart in the mean and at
    the pixel where it is most; and how far the blurred crops lie from the sharp ones."""
    generator = np.random.default_rng(0)
    apart, most, changed = [], [], []
    for crop in crops:
        sigma = generator.uniform(0.1, 2.0)
        theirs = np.asarray(crop.filter(ImageFilter.GaussianBlur(sigma)), float)
        ours = reference.blur(np.asarray(crop, float), sigma)
        difference = np.abs(theirs - ours)
        apart.append(difference.mean())
        most.append(difference.max())
        changed.append(np.abs(theirs - np.asarray(crop, float)).mean())
    sizes = {
        "Gaussian blur, not Pillow's approximation": np.mean(apart),
        "the same, at the pixel furthest apart": np.max(most),
        "beside it, what their blur itself changes": np.mean(changed),
    }
    return [{"what": what, "unit": "grey levels", "size": float(size)} for what, size in sizes.items()]


@torch.no_grad()
def bfloat16(batch: Sequence[Tensor]) -> dict[str, Any]:
    """The loss of a batch by the untrained network of ``cifar10``, in bfloat16 and in float32; relative."""
    losses = []
    for precision in ("bf16", "fp32"):
        words = [f"train.precision={precision}", f"train.batch_size={len(batch[0])}", "train.device=cpu"]
        step = TrainingStep(load(RECIPES / "cifar10.yaml", words), ALONE, epoch_steps=1)
        losses.append(step.forward([view.to(step.dtype) for view in batch]).item())
    difference = abs(losses[0] - losses[1]) / losses[1]
    return {"what": "bfloat16 on a GPU, not float32 (INTL, small images)", "unit": "of the loss", "size": difference}


@torch.no_grad()
def batchnorm_of_all(views: Tensor) -> dict[str, Any]:
    """What an untrained network's first forward pass gives if BatchNorm sees 256 images or, as on 8 GPUs of theirs, 32:
    the difference as a share of the features' spread over the images."""
    torch.manual_seed(0)
    network = build_backbone("resnet18", "imagenet", zero_init_residual=False).train()
    together, apart = network(views), torch.cat([network(part) for part in views.split(32)])
    share = (together - apart).norm() / (together - together.mean(0)).norm()
    return {
        "what": "fine-tuning: BatchNorm over 256 images, not over the 32 of a GPU",
        "unit": "of the features' spread",
        "size": float(share),
    }


def _cropped(image: Image.Image, row: np.ndarray, size: int) -> Image.Image:
    top, left, height, width = row[draws.TOP : draws.WIDTH + 1].astype(int).tolist()
    return functional.resized_crop(image, top, left, height, width, [size, size], functional.InterpolationMode.BICUBIC)


def _coloured(image: Image.Image, row: np.ndarray) -> Image.Image:
    if row[draws.JITTER_ORDER] >= 0:
        factors = row[draws.BRIGHTNESS : draws.HUE + 1].tolist()
        for which in draws.JITTER_ORDERS[int(row[draws.JITTER_ORDER])]:
            image = _OPERATIONS[which](image, factors[which])
    return functional.rgb_to_grayscale(image, 3) if row[draws.GRAYSCALE] else image
