"""Writes a backbone under the names that other libraries expect."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fastintl.network.model import Backbone, stem_of
from fastintl.network.names import ARCHITECTURES
from loaders.errors import UserError, writing
from loaders.files import replacing


def export(backbone: Backbone, path: Path) -> None:
    """Writes the weights in the format that the file's suffix names.

    ``.pt`` and ``.safetensors`` hold the names of the network's library without those of its classifier. A ResNet's
    are torchvision's, which are timm's too:
    ``timm.create_model("resnet50", num_classes=0, checkpoint_path=path)``. ``.pkl`` is detectron2's: 7x7 stem, stride
    in the 3x3 convolution, images in RGB, normalised as in training.

    Args:
        backbone: as ``fastintl.load_backbone`` makes it.

    Raises:
        UserError: an unknown suffix, a network that the format has no name for, or a file that cannot be written.
    """
    formats = {".pt": _torch, ".safetensors": _safetensors, ".pkl": _detectron2}
    if path.suffix not in formats:
        raise UserError(f"{path} names no format: its suffix must be {', '.join(formats)}")
    write = formats[path.suffix](backbone)
    with writing(path), replacing(path) as temporary:
        write(temporary)


def detectron2_name(name: str) -> str:
    """``layer1.0.bn2.weight`` -> ``res2.0.conv2.norm.weight``, as detectron2's converter for torchvision has it."""
    *place, layer, what = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm").split(".")
    if layer.startswith("bn"):
        layer = f"conv{layer[2:]}.norm"
    if not place:
        place = ["stem"]
    elif place[0].startswith("layer"):
        place[0] = f"res{int(place[0][5:]) + 1}"
    return ".".join([*place, layer, what])


def _torch(backbone: Backbone) -> Callable[[Path], None]:
    return lambda path: torch.save(_state(backbone), path)


def _safetensors(backbone: Backbone) -> Callable[[Path], None]:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise UserError("writing .safetensors needs a package: pip install safetensors") from error
    about = {"format": "pt", "arch": backbone.arch, "stem": stem_of(backbone)}
    return lambda path: save_file(_state(backbone), path, about)


def _detectron2(backbone: Backbone) -> Callable[[Path], None]:
    stem = stem_of(backbone)
    if stem != "imagenet" or backbone.arch not in ARCHITECTURES[1:]:
        raise UserError(f"detectron2 has no {backbone.arch} with the stem {stem}: its ResNets have the stem imagenet")
    model = {detectron2_name(name): value.numpy() for name, value in _state(backbone).items()}
    return lambda path: path.write_bytes(
        pickle.dumps({"model": model, "__author__": "fastintl", "matching_heuristics": True})
    )


def _state(backbone: Backbone) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()}
