"""Networks of timm, of torchvision and of the user's own as backbones: by name, and without their last layer.

Shapes: B images, s pixels, d channels of the features.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call

from fastintl.network.names import NamedNetwork
from loaders.errors import UserError

# Options that fetch or read files, or that change what is built to something without features of (B, d).
_RESERVED = {"weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"}
_RESERVED |= {"cache_dir", "num_classes", "features_only", "scriptable", "exportable", "hub", "progress"}
# Without second outputs in training.
_ONE_OUTPUT = {"aux_logits": False, "init_weights": True}
_OF_TORCHVISION = {"googlenet": _ONE_OUTPUT, "inception_v3": _ONE_OUTPUT}
_CLASSES = 1000  # of torchvision's last layers
_USUAL_SIDE = 224


def build_named(arch: str, network: NamedNetwork, sizes: Sequence[int] = ()) -> nn.Module:
    """A network by name, without its last layer, freshly initialised.

    Its features are (B, d); d is found by a forward pass that computes nothing (on torch's device "meta"), and where
    the network cannot do without, by one over a single image.

    Args:
        arch: the whole name, for the sentences.
        sizes: sides s of the square images that it will be given, each of which is tried. None: its library's usual.

    Returns:
        The network: (B, 3, s, s) -> (B, d), with the attributes ``arch``, ``feature_dim``, d, and ``left_out``, the
        names of the layers that were left out, which files of its library's weights have.

    Raises:
        UserError: the library is not installed, has no such network, or the network does not take these images.
    """
    build = {"timm": _of_timm, "torchvision": _of_torchvision}.get(network.home, _of_own)
    if not network.is_own and (reserved := sorted(_RESERVED & network.options.keys())):
        raise UserError(f"{arch}: the option {reserved[0]} is not for a name to set; weights come by model.weights")
    backbone, side, left_out = build(arch, network)
    found = {"arch": arch, "feature_dim": _feature_dim(backbone, arch, sizes or (side,)), "left_out": left_out}
    for name, value in found.items():
        if getattr(backbone, name, value) != value:
            raise UserError(f"{arch} has an attribute {name} of its own, where {value!r} is to stand: rename it")
        setattr(backbone, name, value)
    return backbone


def require_timm() -> Any:
    """The package timm.

    Raises:
        UserError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError("networks of timm need a package: pip install timm") from error
    return timm


def require_known(library: str, name: str, known: Sequence[str]) -> None:
    """Raises ``UserError`` where a library has no network of this name; names those that are near."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise UserError(f"{library}:{name}: {library} has no such network; near are {', '.join(near) or 'none'}")


def create_of_timm(arch: str, network: NamedNetwork, **options: Any) -> nn.Module:
    """timm's network without its last layer; one with position embeddings takes images of any size that fits its
    patches, if timm can (``dynamic_img_size``, which interpolates them)."""
    timm = require_timm()
    require_known("timm", network.name.partition(".")[0], timm.list_models())
    options |= {"num_classes": 0, **network.options}
    fixed = getattr(timm.get_pretrained_cfg(network.name, allow_unregistered=True), "fixed_input_size", False)
    with _sentence_of(arch):
        if fixed and "dynamic_img_size" not in options:
            try:
                return timm.create_model(network.name, dynamic_img_size=True, **options)
            except TypeError as error:  # of those that have one size and no other
                if "dynamic_img_size" not in str(error):
                    raise
        return timm.create_model(network.name, **options)


def _of_timm(arch: str, network: NamedNetwork) -> tuple[nn.Module, int, tuple[str, ...]]:
    backbone = create_of_timm(arch, network, pretrained=False)
    settings = backbone.pretrained_cfg
    names = settings.get("classifier") or ()
    side = network.options.get("img_size") or settings.get("input_size", (3, _USUAL_SIDE))[-1]
    return backbone, side, (names,) if isinstance(names, str) else tuple(names)


def _of_torchvision(arch: str, network: NamedNetwork) -> tuple[nn.Module, int, tuple[str, ...]]:
    require_known("torchvision", network.name, torchvision.models.list_models(module=torchvision.models))
    with _sentence_of(arch):
        options = _OF_TORCHVISION.get(network.name, {}) | network.options
        backbone = torchvision.models.get_model(network.name, weights=None, **options)
    last = [name for name, module in backbone.named_modules() if _outputs(module) == _CLASSES][-1]
    backbone.set_submodule(last, nn.Identity())
    return backbone, network.options.get("image_size", _USUAL_SIDE), (last,)


def _outputs(module: nn.Module) -> int | None:
    return getattr(module, "out_features", getattr(module, "out_channels", None))


def _of_own(arch: str, network: NamedNetwork) -> tuple[nn.Module, int, tuple[str, ...]]:
    if os.getcwd() not in sys.path:  # as python -m has it, and a tool's script has not
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(network.home)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{arch}: {error}; start in the folder that holds {network.home.partition('.')[0]}, or install it"
        ) from error
    except Exception as error:
        raise _own_error(arch, error) from error
    function: Callable[..., nn.Module] | None = getattr(module, network.name, None)
    if not callable(function):
        raise UserError(f"{arch}: {network.home} has no function {network.name}")
    try:
        backbone = function(**network.options)
    except Exception as error:
        raise _own_error(arch, error) from error
    if not isinstance(backbone, nn.Module):
        raise UserError(f"{arch}: it returns a {type(backbone).__name__}, and should return a torch.nn.Module")
    return backbone, _USUAL_SIDE, ()


def _own_error(arch: str, error: Exception) -> UserError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return UserError(f"{arch}: {_reason(error)} ({place.filename}, line {place.lineno})")


class _sentence_of:
    """A block in which a library builds a network: what it raises becomes a sentence that names the network."""

    def __init__(self, arch: str) -> None:
        self._arch = arch

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(f"{self._arch} cannot be built: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# What a network takes and gives


def _feature_dim(network: nn.Module, arch: str, sizes: Sequence[int]) -> int:
    """The channels of its features, the same for images of each size; parameters that no size reads learn no more.

    (DistributedDataParallel waits for the gradient of every parameter that learns.)
    """
    parameters = {name: _weightless(p).requires_grad_(p.requires_grad) for name, p in network.named_parameters()}
    shapes = {size: _shape(network, parameters, arch, size) for size in sorted(set(sizes))}
    for size, shape in shapes.items():
        if len(shape) != 2 or shape[1] != next(iter(shapes.values()))[1]:
            raise UserError(
                f"{arch} gives {shape} for two images of {size} x {size} pixels, and a backbone gives one vector an "
                "image, (2, d), of the same d for all sizes"
            )
    read = {name for name, stand_in in parameters.items() if stand_in.grad is not None}
    for name, parameter in network.named_parameters():
        if read and name not in read:
            parameter.requires_grad_(False)
    return next(iter(shapes.values()))[1]


def _shape(network: nn.Module, parameters: dict[str, Tensor], arch: str, size: int) -> tuple[int, ...]:
    """Of the features of two images."""
    stand_ins = parameters | {name: _weightless(buffer) for name, buffer in network.named_buffers()}
    try:
        features = functional_call(network, stand_ins, torch.empty(2, 3, size, size, device="meta"))
        features.sum().backward()
        return tuple(features.shape)
    except Exception:  # it looks at its values, or it does not take the size: an image tells
        return _shape_of_an_image(network, arch, size)


@torch.no_grad()
def _shape_of_an_image(network: nn.Module, arch: str, size: int) -> tuple[int, ...]:
    was_training, device = network.training, next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng():
            features = network.eval()(torch.zeros(1, 3, size, size, device=device))
    except Exception as error:
        raise UserError(
            f"{arch} does not take images of {size} x {size} pixels ({_reason(error)}): give it sizes that it takes, "
            "by crops.sizes and eval.size (--size of a tool)"
        ) from error
    finally:
        network.train(was_training)
    if not isinstance(features, Tensor):
        raise UserError(f"{arch} gives a {type(features).__name__}, and a backbone gives a tensor (B, d)")
    return (2, *features.shape[1:])


def _weightless(x: Tensor) -> Tensor:
    return torch.empty_like(x, device="meta")
