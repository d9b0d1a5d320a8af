"""``load_backbone``: a pretrained ResNet from the files of this and other projects, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from fastintl.network.model import Backbone, build_backbone
from fastintl.network.names import ARCHITECTURES
from fastintl.weights.files import WeightFile, read_weights
from fastintl.weights.layouts import find_layout
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
    Barlow Twins and of MoCo v1 and v2; torchvision's; any of these as safetensors. Projectors, classifiers, queues
    and optimisers in the file are passed over.

    Args:
        path_or_url: a file, a run folder (its newest checkpoint) or a URL.
        arch: one of ``fastintl.network.names.ARCHITECTURES``. None: what the file says, or resnet50 if nothing.
        stem: one of ``fastintl.network.names.STEMS``. None: what the file says, or imagenet if nothing; a file of
            another stem that does not say which is refused, for the weights of all others are alike.
        target: take the EMA copy (INTL with EMA, MoCo) and not the network that was trained.

    Returns:
        The network in evaluation mode, (B, 3, s, s) -> (B, feature_dim), as ``build_backbone`` makes it.

    Raises:
        UserError: the file cannot be read or trusted, says another architecture, or its weights are not exactly
            those of the network; lists what is missing, left over or of another shape.
    """
    return backbone_of(read_weights(path_or_url), arch, stem, target)


def backbone_of(file: WeightFile, arch: str | None = None, stem: str | None = None, target: bool = False) -> Backbone:
    """``load_backbone`` from a file that is open already."""
    arch = _agreed("arch", arch, file.arch, "resnet50", file)
    stem = _agreed("stem", stem, file.stem, "imagenet", file)
    layout = find_layout(file.state)
    if layout is None:
        raise UserError(
            f"{file.path} holds no ResNet under the names of a known project, among which would be conv1.weight; "
            f"it has {_list(file.state)}"
        )
    if target and not layout.has_target(file.state):
        raise UserError(f"{file.path} holds no EMA copy of the backbone: leave target out")
    state, left_over = layout.split(file.state, target)
    backbone = build_backbone(arch, stem)
    wrong = _differences(state, backbone, left_over)
    if wrong:
        raise UserError(_misfit(file, state, arch, stem, wrong))
    backbone.load_state_dict(_counters(backbone) | state)
    return backbone.eval()


def _agreed(what: str, given: str | None, found: str | None, default: str, file: WeightFile) -> str:
    if given is not None and found is not None and given != found:
        raise UserError(f"{file.path} holds a network of {what} {found}, not {given}: leave {what} out")
    return given or found or default


def _counters(backbone: ResNet) -> dict[str, Tensor]:
    """BatchNorm's batch counters, which files from before PyTorch 0.4.1 lack and no computation here reads."""
    return {key: value for key, value in backbone.state_dict().items() if key.endswith("num_batches_tracked")}


def _differences(state: dict[str, Tensor], backbone: ResNet, left_over: Sequence[str] = ()) -> dict[str, list[str]]:
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
