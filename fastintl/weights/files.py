"""Finds, fetches and opens files of weights, of this project and of others, without running what is in them."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from fastintl.config import Config, from_yaml
from fastintl.network.names import ARCHITECTURES
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
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    config = _config_of(content, path)
    if config is not None:
        return WeightFile(path, tensors, config.model.arch, config.model.stem, config)
    arch = content.get("arch")  # written by PyTorch's ImageNet example and the many scripts made from it
    return WeightFile(path, tensors, arch if arch in ARCHITECTURES else None)


def _load(path: Path) -> Any:
    try:
        # Old checkpoints keep their command line in a Namespace, which is a bag of values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on protocols; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asks = re.search(r"GLOBAL ([\w.]+)|(Unsupported operand \d+)", str(error))
        what = f" ({asks[1] or asks[2]})" if asks else ""
        raise UserError(
            f"{path} is not opened: it is damaged, or holds more than weights and values{what}, which could run a "
            "program; have its author save the state dict alone"
        ) from error
    except Exception as error:  # torch raises several types on damaged files
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}: {first}): it is damaged, or of another kind"
        ) from error


def _config_of(content: Mapping, path: Path) -> Config | None:
    """A checkpoint's own configuration, or for ``backbone.pt`` that of the run it lies in."""
    beside = path.parent / "config.yaml"
    if isinstance(content.get("config"), str):
        return from_yaml(content["config"])
    if path.name == "backbone.pt" and beside.exists():
        return from_yaml(beside.read_text())
    return None


def _read_safetensors(path: Path) -> WeightFile:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"reading {path} needs a package: pip install safetensors") from error
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
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
