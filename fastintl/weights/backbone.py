"""``load_backbone``: a pretrained backbone from the files of this and other projects, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastintl.network.model import Backbone, build_backbone, stem_of
from fastintl.network.names import ARCHITECTURES, named_network
from fastintl.weights.files import WeightFile, read_weights
from fastintl.weights.layouts import find_layout
from fastintl.weights.view import transform_of
from loaders import CenterCrop
from loaders.errors import UserError

_LISTED = 5
_SAME_WEIGHTS = (
    "cifar, cifar_padded or small, which have the same weights: name the one it is (stem, --stem of a tool); "
    "cifar_padded is INTL's CIFAR network since 2023-06-02, cifar INTL's before and CW-RGP's, small has a max-pool"
)


def load_backbone(
    path_or_url: str | Path, arch: str | None = None, *, stem: str | None = None, target: bool = False
) -> Backbone:
    """A backbone with the weights of a file.

    Reads this project's checkpoints, ``backbone.pt`` and run folders; the files of INTL's and CW-RGP's authors, of
    Barlow Twins, BYOL, DINO, MoCo v1, v2 and v3, SimSiam, SwAV and VICReg; of lightly, MMSelfSup, solo-learn, VISSL,
    timm and torchvision; any of these as safetensors. Projectors, classifiers, queues and optimisers in the file are
    passed over.

    Args:
        path_or_url: a file, a run folder (its newest checkpoint), a URL, ``timm:NAME`` or ``torchvision:NAME``.
        arch: a network's name, see ``fastintl.network.names``. None: what the file says, or resnet50 if nothing; the
            name of a network of your own, ``package.module:function``, is not taken from a file.
        stem: one of ``fastintl.network.names.STEMS``. None: what the file says, or imagenet if nothing; a file of
            another stem that does not say which is refused, for the weights of all others are alike.
        target: take the EMA copy (INTL with EMA, MoCo, BYOL, DINO's teacher) and not the network that was trained.

    Returns:
        The network in evaluation mode, (B, 3, s, s) -> (B, feature_dim), as ``build_backbone`` makes it. Its attribute
        ``transform`` makes such images: torchvision's transform of an image of PIL, with the sizes, mean and standard
        deviation of the run that wrote the file, or ImageNet's usual ones.

    Raises:
        UserError: the file cannot be read or trusted, says another architecture, or its weights are not exactly
            those of the network; lists what is missing, left over or of another shape.
    """
    return backbone_of(read_weights(path_or_url), arch, stem, target)


def backbone_of(
    file: WeightFile,
    arch: str | None = None,
    stem: str | None = None,
    target: bool = False,
    sizes: Sequence[int] = (),
) -> Backbone:
    """``load_backbone`` from a file that is open already.

    Args:
        sizes: sides of the images that the backbone will be given, see ``build_backbone``. None: the file's view.
    """
    if arch is None:
        _refuse_own(file)
    arch = _agreed("arch", arch, file.arch, file.usual_arch, file)
    stem = _agreed("stem", stem, file.stem, "imagenet", file)
    view = file.view or CenterCrop()
    backbone = build_backbone(arch, stem, sizes=sizes or ((file.view.size,) if file.view else ()))
    load_into(backbone, file, target)
    backbone.transform = transform_of(view)
    return backbone.eval()


def load_into(backbone: Backbone, file: WeightFile, target: bool = False) -> None:
    """Loads a file's backbone into one that is built, whole or not at all.

    Raises:
        UserError: it says another architecture or stem, or its weights are not exactly those of the network; lists what
            is missing, left over or of another shape.
    """
    arch, stem = backbone.arch, stem_of(backbone)
    _agreed("arch", arch, file.arch, arch, file)
    _agreed("stem", stem, file.stem, stem, file)
    first = next(iter(backbone.state_dict()))
    layout = find_layout(file.state, first, backbone.left_out)
    if layout is None:
        what = "ResNet" if arch in ARCHITECTURES else arch
        raise UserError(
            f"{file.path} holds no {what} under the names of a known project, among which would be {first}; "
            f"it has {_list(file.state)}"
        )
    if target and not layout.has_target(file.state):
        raise UserError(f"{file.path} holds no EMA copy of the backbone: leave target out")
    state, left_over = layout.split(file.state, target, backbone.left_out)
    wrong = _differences(state, backbone, left_over)
    if wrong:
        raise UserError(_misfit(file, state, arch, stem, wrong))
    backbone.load_state_dict(_counters(backbone) | state)


def _refuse_own(file: WeightFile) -> None:
    """A file must not make a module be imported."""
    network = named_network(file.arch or file.usual_arch)
    if network is not None and network.is_own:
        raise UserError(
            f"{file.path} holds a network of your own, {file.arch}, whose module no file of weights makes us import: "
            f"name it yourself (arch, --arch {file.arch} of a tool)"
        )


def _agreed(what: str, given: str | None, found: str | None, default: str, file: WeightFile) -> str:
    if given is not None and found is not None and given != found:
        raise UserError(f"{file.path} holds a network of {what} {found}, not {given}: leave {what} out")
    return given or found or default


def _counters(backbone: Backbone) -> dict[str, Tensor]:
    """BatchNorm's batch counters, which files from before PyTorch 0.4.1 lack and no computation here reads."""
    return {key: value for key, value in backbone.state_dict().items() if key.endswith("num_batches_tracked")}


def _differences(state: dict[str, Tensor], backbone: Backbone, left_over: Sequence[str] = ()) -> dict[str, list[str]]:
    wanted = backbone.state_dict()
    may_miss = _counters(backbone)
    found = {
        "missing": [key for key in wanted if key not in state and key not in may_miss],
        "left over": [*left_over, *(key for key in state if key not in wanted)],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
            for key, value in wanted.items()
            if key in state and state[key].shape != value.shape
        ],
        "no plain numbers": [key for key, value in state.items() if not _is_plain(value)],
    }
    return {what: keys for what, keys in found.items() if keys}


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense, and of real numbers that are not quantised."""
    return value.layout == torch.strided and not (value.is_complex() or value.is_quantized or value.is_meta)


def _misfit(file: WeightFile, state: dict[str, Tensor], arch: str, stem: str, wrong: dict[str, list[str]]) -> str:
    lists = "; ".join(f"{len(keys)} {what}: {_list(keys)}" for what, keys in wrong.items())
    fitting = _fitting(state, arch, stem)
    cure = f", but of a {fitting}" if fitting else ""
    return f"the weights in {file.path} are not those of a {arch} with the stem {stem}{cure} ({lists})"


def _fitting(state: dict[str, Tensor], asked: str, asked_stem: str) -> str | None:
    """The known network that has these weights; None if it is the one that was asked for, beside what is left over."""
    for arch in ARCHITECTURES:
        for stem, name in (("imagenet", "imagenet"), ("cifar", _SAME_WEIGHTS)):
            with torch.device("meta"):
                network = build_backbone(arch, stem)
            if not _differences(state, network):
                same = arch == asked and (stem == "imagenet") == (asked_stem == "imagenet")
                return None if same else f"{arch} with the stem {name}"
    return None


def _list(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
