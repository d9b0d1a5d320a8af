"""The view of an image that a backbone is given outside of training."""

from __future__ import annotations

from torchvision import transforms

from fastintl.config import Config
from loaders.recipe import CenterCrop


def center_crop(config: Config) -> CenterCrop:
    """The recipe of a run's evaluation view."""
    settings, crops = config.eval, config.crops
    statistics = settings.mean or crops.mean, settings.std or crops.std
    return CenterCrop(settings.resize, settings.size, *statistics, settings.interpolation)


def transform_of(crop: CenterCrop) -> transforms.Compose:
    """A view as torchvision's transform: an image of PIL in RGB -> (3, size, size) float32, normalised."""
    interpolation = transforms.InterpolationMode(crop.interpolation)
    return transforms.Compose(
        [
            transforms.Resize(crop.resize, interpolation, antialias=True),
            transforms.CenterCrop(crop.size),
            transforms.ToTensor(),
            transforms.Normalize(crop.mean, crop.std),
        ]
    )
