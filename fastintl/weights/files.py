"""Finds, fetches and opens files of weights, of this project and of others, without running what is in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from fastintl.config import Config, from_yaml
from fastintl.network.names import ARCHITECTURES
from fastintl.weights.pickled import Damaged, Unsafe, load_values
from loaders.download import download
from loaders.errors import UserError


@dataclass(frozen=True)
class WeightFile:
    """An opened file of weights.

    Attributes:
        path: where the file is.
        state: its tensors by their names in the file.
        arch, stem: the network, as ``build_backbone`` names it; None where the file does not say.
        config: the configuration of the run that wrote it; None for other projects' files.
    """

    path: Path
    state: dict[str, Tensor]
    arch: str | None = None
    stem: str | None = None
    config: Config | None = None


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
    """Opens what ``locate`` finds: what ``torch.save`` wrote, or safetensors.

    Raises:
        UserError: the file is damaged, holds no tensors, or asks for more than tensors and plain values.
    """
    path = locate(path_or_url)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _load(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, no weights by name: give a network's state dict")
    inner = (content.get(key) for key in ("state_dict", "model"))
    state = next((value for value in inner if isinstance(value, Mapping)), content)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and isinstance(key, str)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name: give a network's state dict")
    config = _config_of(content, path)
    if config is not None:
        return WeightFile(path, tensors, config.model.arch, config.model.stem, config)
    arch = content.get("arch")  # written by PyTorch's ImageNet example and the many scripts made from it
    return WeightFile(path, tensors, arch if arch in ARCHITECTURES else None)


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


def _fetch(url: str) -> Path:
    name = Path(urlparse(url).path).name
    # Many releases call their file checkpoint.pth.tar: the URL's hash keeps them apart.
    target = Path(torch.hub.get_dir()) / "checkpoints" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}"
    stated = re.search(r"-([0-9a-f]{8,})\.", name)
    if not target.exists():
        download(url, target, stated and stated[1])
    return target
