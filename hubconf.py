"""Entry points of torch.hub; nothing is fetched but a URL that is given.

>>> torch.hub.load("path/to/this/folder", "resnet50", weights="runs/mine", source="local")
"""

from __future__ import annotations

dependencies = ["torch", "torchvision", "numpy", "yaml"]


def resnet50(weights: str | None = None, stem: str | None = None, target: bool = False):
    """ResNet-50 without classifier, (B, 3, s, s) -> (B, 2048), in evaluation mode.

    Args:
        weights: file, run folder or URL, as ``fastintl.load_backbone`` takes it; None: untrained.
        stem: imagenet, cifar, cifar_padded or small; None: what the file says, else imagenet.
        target: take the EMA copy.
    """
    return _backbone("resnet50", weights, stem, target)


def resnet18(weights: str | None = None, stem: str | None = None, target: bool = False):
    """ResNet-18 without classifier, (B, 3, s, s) -> (B, 512); see ``resnet50``."""
    return _backbone("resnet18", weights, stem, target)


def _backbone(arch: str, weights: str | None, stem: str | None, target: bool):
    from fastintl.network.model import build_backbone
    from fastintl.weights.backbone import load_backbone

    if weights is None:
        return build_backbone(arch, stem or "imagenet").eval()
    return load_backbone(weights, arch, stem=stem, target=target)
