"""From images of several sizes to one normalised batch, and detections back to the images' own pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional

from fastintl.detection.augment import fitted
from fastintl.detection.config import Views


class Preprocessing(GeneralizedRCNNTransform):
    """torchvision's, with two differences: images come as uint8, and are resized as in training, with antialiasing.

    In training they come in their final size, see ``augment.py``; in the test they are resized here.
    """

    def __init__(self, views: Views) -> None:
        super().__init__(views.test_size, views.max_size, views.mean, views.std)

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(functional.to_dtype(image, torch.float32, scale=True))

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None):
        if self.training:
            return image, target
        height, width = image.shape[-2:]
        return functional.resize(image, fitted(height, width, self.min_size[0], self.max_size), antialias=True), target
