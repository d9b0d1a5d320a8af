"""Finds, fetches and opens files of weights, of this project and of others, without running what is in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from fastintl.config import Config, from_yaml
from fastintl.network.named import create_of_timm, require_known
from fastintl.network.names import ARCHITECTURES, named_network
from fastintl.weights.pickled import Damaged, Unsafe, load_values
from fastintl.weights.view import center_crop
from loaders.download import download
from loaders.errors import UserError
from loaders.files import file_digest
from loaders.recipe import CenterCrop, Interpolation


@dataclass(frozen=True)
class WeightFile:
    """An opened file of weights.

    Attributes:
        path: where the file is.
        state: its tensors by their names in the file.
        arch, stem: the network, as ``build_backbone`` names it; None where the file does not say.
        config: the configuration of the run that wrote it; None for other projects' files.
        usual_arch: the network that is taken where neither the file nor anybody names one.
        view: the view of an image that the weights were made for; None where nobody knows.
    """

    path: Path
    state: dict[str, Tensor]
    arch: str | None = None
    stem: str | None = None
    config: Config | None = None
    usual_arch: str = "resnet50"
    view: CenterCrop | None = None

    def sha256(self) -> str:
        """The SHA-256 of the file in hexadecimal, or of the tensors where they are no file here."""
        if self.path.is_file():
            return file_digest(self.path, "sha256")
        digest = hashlib.sha256()
        for name, value in sorted(self.state.items()):
            digest.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def locate(path_or_url: str | Path) -> Path:
    """The file of weights: a file itself, the newest checkpoint of a run folder, or a URL's copy on this machine.

    A URL is fetched once, into torch.hub's folder; the SHA-256 prefix in a name like ``resnet50-11ad3fa6.pth`` is
    checked.

    Raises:
        UserError: nothing there, a folder without weights, or a download that failed.
    """
    text = str(path_or_url)
    if re.match(r"(https?|file)://", text):
        return _fetch(text)
    path = Path(path_or_url)
    if path.is_dir():
        steps = sorted((path / "checkpoints").glob("step_*.pt"))
        backbone = path / "backbone.pt"
        if not steps and not backbone.exists():
            raise UserError(f"{path} holds neither checkpoints/step_*.pt nor backbone.pt: it is no run folder")
        return steps[-1] if steps else backbone
    if not path.exists():
        raise UserError(f"{path} does not exist: give a file of weights, a run folder or a URL")
    return path


def read_weights(path_or_url: str | Path) -> WeightFile:
    """Opens what ``locate`` finds: what ``torch.save`` wrote, or safetensors; or ``timm:NAME``, ``torchvision:NAME``.

    Raises:
        UserError: the file is damaged, holds no tensors, or asks for more than tensors and plain values; a library has
            no such weights.
    """
    library, _, name = str(path_or_url).partition(":")
    if library == "timm":
        return _of_timm(name)
    if library == "torchvision":
        file = read_weights(torchvision_url(name))
        return replace(file, usual_arch=f"torchvision:{name.partition('.')[0]}", view=CenterCrop())
    path = locate(path_or_url)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _load(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, no weights by name: give a network's state dict")
    tensors = {key: value for key, value in _state_in(content).items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name: give a network's state dict")
    config = _config_of(content, path)
    if config is not None:
        model = config.model
        return WeightFile(path, tensors, model.arch, model.stem, config, view=center_crop(config))
    arch = content.get("arch")  # written by PyTorch's ImageNet example and the many scripts made from it
    return WeightFile(path, tensors, arch if arch in ARCHITECTURES else None)


def _state_in(content: Mapping) -> dict[str, Any]:
    """What a file holds by name; what lies deeper within it, by names with dots."""
    inner = (content.get(key) for key in ("state_dict", "model", "classy_state_dict"))
    state = next((value for value in inner if isinstance(value, Mapping)), content)
    if state is content.get("classy_state_dict"):  # VISSL: vissl/models/base_ssl_model.py, get_classy_state
        for key in ("base_model", "model"):
            state = state.get(key) if isinstance(state.get(key), Mapping) else {}
    found = {key: value for key, value in state.items() if isinstance(key, str)}
    for part in ("student", "teacher", "trunk"):  # DINO's networks, VISSL's backbone
        if isinstance(state.get(part), Mapping):
            found |= {f"{part}.{key}": value for key, value in state[part].items() if isinstance(key, str)}
    return found


def _load(path: Path) -> Any:
    try:
        return load_values(path)
    except Unsafe as error:
        raise UserError(f"{path} is not opened: {error}; have its author save the state dict alone") from error
    except Damaged as error:
        raise UserError(f"{path} cannot be read as weights ({error}): it is damaged, or of another kind") from error


def _config_of(content: Mapping, path: Path) -> Config | None:
    """A checkpoint's own configuration, or for ``backbone.pt`` that of the run it lies in."""
    beside = path.parent / "config.yaml"
    if isinstance(content.get("config"), str):
        text, place = content["config"], f"the configuration in {path}"
    elif path.name == "backbone.pt" and beside.exists():
        text, place = _read_text(beside), str(beside)
    else:
        return None
    # A text that was cut off is a smaller one, in whose place the defaults would stand.
    if "\nlog:" not in text or not text.endswith("\n"):
        raise UserError(f"{place} is cut off: copy it again")
    return from_yaml(text, place)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error


def _read_safetensors(path: Path) -> WeightFile:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"reading {path} needs a package: pip install safetensors") from error
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): it is damaged, or of another kind") from error
    return WeightFile(path, state, about.get("arch"), about.get("stem"))


def _of_timm(name: str) -> WeightFile:
    """timm's own loading, which knows how each of its files is named."""
    arch = f"timm:{name}"
    network = named_network(arch)
    try:
        built = create_of_timm(arch, network, pretrained=True)
    except UserError as error:
        if not isinstance(error.__cause__, RuntimeError | OSError | ValueError):
            raise
        raise UserError(
            f"the weights of {arch} cannot be fetched ({error.__cause__}): fetch them elsewhere and give the file"
        ) from error
    settings = built.pretrained_cfg
    size, interpolation = settings["input_size"][-1], settings.get("interpolation")
    view = CenterCrop(
        round(size / (settings.get("crop_pct") or 0.875)),
        size,
        tuple(settings["mean"]),
        tuple(settings["std"]),
        interpolation if interpolation in get_args(Interpolation) else "bicubic",
    )
    return WeightFile(Path(arch), built.state_dict(), usual_arch=arch, view=view)


def torchvision_url(name: str) -> str:
    """Where torchvision's weights of a network lie: the newest of ``NAME``, or ``NAME.WEIGHTS``."""
    name, _, which = name.partition(".")
    require_known("torchvision", name, torchvision.models.list_models(module=torchvision.models))
    weights = torchvision.models.get_model_weights(name)
    known = list(weights.__members__)
    if which and which not in known:
        raise UserError(f"torchvision:{name}.{which}: there are {', '.join(known)}")
    return (weights[which] if which else weights.DEFAULT).url


def _fetch(url: str) -> Path:
    name = Path(urlparse(url).path).name
    # Many releases call their file checkpoint.pth.tar: the URL's hash keeps them apart.
    target = Path(torch.hub.get_dir()) / "checkpoints" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}"
    stated = re.search(r"-([0-9a-f]{8,})\.", name)
    if not target.exists():
        download(url, target, stated and stated[1])
    return target
