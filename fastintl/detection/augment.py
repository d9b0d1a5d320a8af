"""The view of an image in training: one of several sizes, sometimes flipped.

What is drawn is a pure function of (seed, epoch, image), so that no thread, rank or restart changes it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, functional

from fastintl.detection.annotations import AnnotatedImage, require_size
from fastintl.detection.config import Views
from loaders.errors import UserError
from loaders.image_reading import BadImage, decoding, open_image, to_rgb
from loaders.philox import Domain, philox, uniform

Target = dict[str, Tensor]
"""The n objects of an image: boxes (n, 4) float32, labels (n,) int64, and masks (n, H, W) uint8 where asked for."""


def read_pixels(image: AnnotatedImage) -> Tensor:
    """The pixels of an image, (3, H, W) uint8 RGB.

    Raises:
        UserError: the file cannot be read, or is not of the size that the annotation states.
    """
    try:
        with decoding(), open_image(image.path.read_bytes()) as opened:
            pixels = functional.pil_to_tensor(to_rgb(opened))
    except BadImage as error:
        raise UserError(f"the image {image.path} cannot be read: {error}") from error
    require_size(image.path, tuple(pixels.shape[1:]), (image.height, image.width))
    return pixels


def fitted(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side is resized to ``shorter``, or its longer one to ``longest``."""
    scale = min(shorter / min(height, width), longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def training_view(
    image: AnnotatedImage, views: Views, masks: bool, seed: int, epoch: int, index: int
) -> tuple[Tensor, Target]:
    """An image and its objects as the detector learns from them.

    Args:
        masks: whether the target has masks.
        index: place of the image in its set.

    Returns:
        (3, H, W) uint8, and the target in the view's pixels.
    """
    draws = uniform(philox(seed, index, epoch, 0, Domain.DETECTION_VIEW))
    shorter = views.train_sizes[int(draws[0] * len(views.train_sizes))]
    size = fitted(image.height, image.width, shorter, views.max_size)
    canvas = (image.height, image.width)
    parts = [
        tv_tensors.Image(read_pixels(image)),
        tv_tensors.BoundingBoxes(torch.from_numpy(image.boxes), format="XYXY", canvas_size=canvas),
    ]
    if masks:
        parts.append(tv_tensors.Mask(torch.from_numpy(image.masks())))
    parts = [functional.resize(part, size, InterpolationMode.BILINEAR, antialias=True) for part in parts]
    if draws[1] < views.flip:
        parts = [functional.horizontal_flip(part) for part in parts]
    pixels, boxes, *rest = (part.as_subclass(Tensor) for part in parts)
    target = {"boxes": boxes, "labels": torch.from_numpy(image.labels)}
    return pixels, target | ({"masks": rest[0]} if masks else {})
