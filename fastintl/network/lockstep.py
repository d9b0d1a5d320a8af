"""All views through their networks together, layer by layer.

A network that sees one view after the other waits for the other ranks at every BatchNorm of every view, reads the
projector's weights once a view, and knows no gradient before its last view's backward pass, so that the gradients'
exchange has little left to hide behind. In lockstep the views wait together (``batchnorm.py``) and share one matrix
product in the projector, and the gradients are complete from the last layer to the first: the projector's, six
sevenths of all bytes with ResNet-50, can travel while the backbone's are computed.

The networks are torchvision's ResNets as they are, parameters and names; only the order of the calls is ours.

Shapes: V views, n samples of this rank, s pixels, d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from fastintl.network.batchnorm import batch_norm
from fastintl.network.max_pool import relu_pool

Region = Callable[..., list[Tensor]]


def stem(backbones: Sequence[ResNet], views: Sequence[Tensor]) -> list[Tensor]:
    """The layers before the residual blocks."""
    xs = [backbone.conv1(view) for backbone, view in zip(backbones, views, strict=True)]
    xs = batch_norm([backbone.bn1 for backbone in backbones], xs)
    return [relu_pool(backbone.maxpool, x) for backbone, x in zip(backbones, xs, strict=True)]


def block(blocks: Sequence[BasicBlock | Bottleneck], xs: Sequence[Tensor]) -> list[Tensor]:
    """One residual block."""
    shortcuts = xs
    if blocks[0].downsample is not None:
        shortcuts = _conv_norm([b.downsample[0] for b in blocks], [b.downsample[1] for b in blocks], xs)
    xs = _relu(_conv_norm([b.conv1 for b in blocks], [b.bn1 for b in blocks], xs))
    xs = _conv_norm([b.conv2 for b in blocks], [b.bn2 for b in blocks], xs)
    if isinstance(blocks[0], Bottleneck):
        xs = _conv_norm([b.conv3 for b in blocks], [b.bn3 for b in blocks], _relu(xs))
    return _relu([x + shortcut for x, shortcut in zip(xs, shortcuts, strict=True)])


def head(encoders: Sequence[nn.Module], xs: Sequence[Tensor], views_together: bool) -> list[Tensor]:
    """The backbone's pooling, then the projector: (n, C, s, s) -> (n, d).

    Args:
        views_together: see ``project``.
    """
    xs = [torch.flatten(e.backbone.avgpool(x), 1) for e, x in zip(encoders, xs, strict=True)]
    return project(encoders, xs, views_together)


def project(encoders: Sequence[nn.Module], xs: Sequence[Tensor], views_together: bool) -> list[Tensor]:
    """The projector: (n, C) -> (n, d).

    Args:
        views_together: whether all views of a network are one batch to its projector, or each is one of its own.
    """
    if not views_together:
        return _project(encoders, xs)
    first = _first_online(encoders)
    *target, online = _project(encoders[: first + 1], [*xs[:first], torch.cat(list(xs[first:]))])
    return [*target, *online.chunk(len(xs) - first)]


def _project(encoders: Sequence[nn.Module], xs: Sequence[Tensor]) -> list[Tensor]:
    for layers in zip(*(encoder.projector for encoder in encoders), strict=True):
        if isinstance(layers[0], nn.Linear):
            xs = _linear(layers, xs)
        elif isinstance(layers[0], nn.BatchNorm1d):
            xs = batch_norm(layers, xs)
        else:
            xs = [layer(x) for layer, x in zip(layers, xs, strict=True)]
    return xs


@dataclass(frozen=True)
class Regions:
    """The parts of a network that run, and are compiled, as one each.

    Attributes:
        recompute: whether the stem and each block keep their inputs alone for the backward pass, which runs them again.
    """

    stem: Region = stem
    block: Region = block
    head: Region = head
    recompute: bool = False

    def embed(self, encoders: Sequence[nn.Module], views: Sequence[Tensor], views_together: bool) -> list[Tensor]:
        """``embed`` by these regions."""
        return embed(encoders, views, self, views_together)


def can_run(backbone: nn.Module) -> bool:
    """Whether a backbone is made of the layers that are known here: torchvision's ResNets, without a classifier."""
    stages = [getattr(backbone, f"layer{i}", None) for i in (1, 2, 3, 4)]
    blocks = [block for stage in stages if isinstance(stage, nn.Sequential) for block in stage]
    return (
        isinstance(backbone, ResNet)
        and type(backbone).forward is ResNet.forward
        and type(backbone)._forward_impl is ResNet._forward_impl
        and isinstance(backbone.fc, nn.Identity)
        and all(type(block) in (BasicBlock, Bottleneck) for block in blocks)
        and all(type(norm) is nn.BatchNorm2d for name, norm in backbone.named_modules() if _is_norm(name))
    )


def embed(
    encoders: Sequence[nn.Module], views: Sequence[Tensor], regions: Regions, views_together: bool = False
) -> list[Tensor]:
    """The embeddings (n, d) of V views (n, 3, s, s), each by its encoder; encoders may repeat.

    Args:
        views_together: see ``project``.
    """
    backbones = [encoder.backbone for encoder in encoders]
    xs = _run(regions.stem, regions.recompute, backbones, views)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        stages = [getattr(backbone, stage) for backbone in backbones]
        if isinstance(stages[0], nn.Sequential):  # resnet8 has three
            for blocks in zip(*stages, strict=True):
                xs = _run(regions.block, regions.recompute, blocks, xs)
    return regions.head(encoders, xs, views_together)


def _run(region: Region, recompute: bool, modules: Sequence[nn.Module], xs: Sequence[Tensor]) -> list[Tensor]:
    if not (recompute and torch.is_grad_enabled()):
        return region(modules, xs)
    return checkpoint(region, modules, xs, use_reentrant=False, preserve_rng_state=False)


def _is_norm(name: str) -> bool:
    """Whether a module of a ResNet is one of its normalisation layers."""
    return name.rpartition(".")[2].startswith("bn") or name.endswith("downsample.1")


def _conv_norm(convs: Sequence[nn.Module], norms: Sequence[nn.Module], xs: Sequence[Tensor]) -> list[Tensor]:
    return batch_norm(norms, [conv(x) for conv, x in zip(convs, xs, strict=True)])


def _relu(xs: Sequence[Tensor]) -> list[Tensor]:
    return [F.relu(x, inplace=True) for x in xs]


def _first_online(parts: Sequence[nn.Module]) -> int:
    """The first view of the online network: the target, if any, has view 0."""
    return 0 if parts[0] is parts[-1] else 1


def _linear(layers: Sequence[nn.Linear], xs: Sequence[Tensor]) -> list[Tensor]:
    """One product for all views of the online network."""
    online, first = layers[-1], _first_online(layers)
    together = online(torch.cat(list(xs[first:]))).chunk(len(xs) - first)
    return [layers[0](xs[0]), *together] if first else list(together)
