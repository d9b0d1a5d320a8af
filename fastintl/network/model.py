"""The network: backbone, projector, and an EMA target of both.

Shapes: V views, B samples of this rank, s pixels, d channels of the embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, ResNet

from fastintl.network import lockstep, view_by_view
from fastintl.network.named import build_named
from fastintl.network.names import ARCHITECTURES, STEMS, named_network, unknown
from loaders.errors import UserError

if TYPE_CHECKING:

    class Backbone(nn.Module):
        """What ``build_backbone`` makes; neither torchvision nor timm has types for it."""

        arch: str
        stem: str
        feature_dim: int
        left_out: tuple[str, ...]

        def __call__(self, images: Tensor) -> Tensor: ...
else:
    Backbone = nn.Module


def build_backbone(
    arch: str, stem: str = "imagenet", zero_init_residual: bool = True, sizes: Sequence[int] = ()
) -> Backbone:
    """A network without its classifier, freshly initialised.

    Args:
        arch: one of ``ARCHITECTURES`` (torchvision's ResNets, and resnet8, a small one for demonstrations), or the name
            of another network, see ``fastintl.network.names``.
        stem: a ResNet's first layers. "imagenet" (torchvision's); "cifar": 3x3 first convolution of stride 1 and no
            max-pool, for images of 32 pixels; "cifar_padded": the same with one pixel of padding more, so that the maps
            are 34, 17, 9 and 5 wide for 32, 16, 8 and 4; "small": cifar's convolution, max-pool kept, for 64 pixels.
        zero_init_residual: whether the last BatchNorm of a ResNet's residual branch starts at zero.
        sizes: sides of the square images that another network will be given, each of which is tried without computing
            anything; none: its usual one. ResNets take all.

    Returns:
        The network: (B, 3, s, s) -> (B, feature_dim), with the attributes ``feature_dim``, ``arch``, ``left_out``, the
        names of the layers that are left out of it, and a ResNet's ``stem``.

    Raises:
        UserError: an unknown name (the sentence says the nearest known one), a library that is not installed, a network
            that does not take images of these sizes.
    """
    network = named_network(arch)
    if stem not in STEMS:
        raise unknown("stem", stem, STEMS)
    if network is not None:
        if stem != "imagenet":
            raise UserError(f"{arch} has no stem {stem}, which only the ResNets have: leave stem out, or imagenet")
        return build_named(arch, network, sizes)
    backbone = _resnet(arch, stem, zero_init_residual)
    backbone.arch, backbone.stem = arch, stem
    return backbone


def stem_of(backbone: Backbone) -> str:
    """The stem of what ``build_backbone`` made. Other networks than ResNets have a ``stem`` of their own, or none."""
    return backbone.stem if backbone.arch in ARCHITECTURES else "imagenet"


def _resnet(arch: str, stem: str, zero_init_residual: bool) -> ResNet:
    if arch == "resnet8":
        backbone = _ResNet8(zero_init_residual)
    else:
        backbone = get_model(arch, weights=None, zero_init_residual=zero_init_residual)
    if stem != "imagenet":
        width = backbone.conv1.out_channels
        padding = 2 if stem == "cifar_padded" else 1
        backbone.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=padding, bias=False)
    if stem in ("cifar", "cifar_padded"):
        backbone.maxpool = nn.Identity()
    backbone.feature_dim, backbone.left_out = backbone.fc.in_features, ("fc",)
    backbone.fc = nn.Identity()
    return backbone


class _ResNet8(ResNet):
    """Three stages of one basic block, 32 to 128 channels, for demonstrations on a CPU.

    The ResNets for CIFAR (He et al., CVPR 2016, section 4.2) have three stages too: a fourth would look at small
    images through a grid of two or three cells.
    """

    def __init__(self, zero_init_residual: bool) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1], zero_init_residual=zero_init_residual)
        self.layer4 = nn.Identity()
        self.fc = nn.Linear(128, 1000)

    def _make_layer(self, block, planes: int, *arguments, **options) -> nn.Sequential:
        if planes == 64:  # the first stage: the stem before it is built by now, at full width
            self.inplanes = 32
            self.conv1 = nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(32)
        return super()._make_layer(block, planes // 2, *arguments, **options)


def build_projector(in_dim: int, widths: Sequence[int], bias: bool = False) -> nn.Sequential:
    """The projector: (Linear, BatchNorm, ReLU) for all widths but the last, then Linear with a bias.

    Args:
        in_dim: the backbone's ``feature_dim``.
        widths: the width of each layer, the embedding's last; INTL on ImageNet: (8192, 8192, 8192).
        bias: whether the layers before the last have a bias. CW-RGP's have one, INTL's have none.
    """
    if not widths or min(widths) < 1:
        raise UserError(f"the projector's widths are {list(widths)}; give one positive width a layer")
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(in_dim, width, bias=bias), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        in_dim = width
    return nn.Sequential(*layers, nn.Linear(in_dim, widths[-1]))


class Encoder(nn.Module):
    """Backbone and projector: images (B, 3, s, s) -> embeddings (B, d)."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.backbone(x))


class JointEmbedding(nn.Module):
    """The encoder and, if asked for, its target: a copy that follows by exponential moving average (EMA).

    The target has BatchNorm statistics of its own and normalises by its batch in training, like the encoder.
    All views pass in one ``forward``, which is what DistributedDataParallel needs, through a ResNet's layers in
    lockstep, through another backbone one after the other; each view is a batch of its own to BatchNorm, with the
    statistics of all ranks, but for the projector's where ``views_together``, as in CW-RGP's code. ``regions`` may be
    replaced by compiled ones.

    State-dict keys: ``encoder.backbone.*``, ``encoder.projector.*``, and the same under ``target``.
    """

    def __init__(self, encoder: Encoder, with_target: bool, views_together: bool = False) -> None:
        super().__init__()
        self.encoder, self.views_together = encoder, views_together
        self.target = copy.deepcopy(encoder).requires_grad_(False) if with_target else None
        self.in_lockstep = lockstep.can_run(encoder.backbone)
        self.regions = lockstep.Regions() if self.in_lockstep else view_by_view.Regions()

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Args:
            views: V tensors (B, 3, s, s), each with its own s.

        Returns:
            With target: the encoder's embeddings of views 1..V-1, (V - 1, B, d), and the target's of view 0,
            (B, d), without gradient. Without: the encoder's of all views, (V, B, d), and None.
        """
        encoders = [self.encoder] * len(views)
        if self.target is None:
            return torch.stack(self._embed(encoders, views)), None
        target, *online = self._embed([self.target, *encoders[1:]], views)
        return torch.stack(online), target

    def _embed(self, encoders: Sequence[Encoder], views: Sequence[Tensor]) -> list[Tensor]:
        return self.regions.embed(encoders, views, self.views_together)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Parameters: ``target = momentum target + (1 - momentum) encoder``; before each forward pass."""
        if self.target is not None:
            encoder = list(self.encoder.parameters())
            torch._foreach_lerp_(list(self.target.parameters()), encoder, 1 - momentum)
