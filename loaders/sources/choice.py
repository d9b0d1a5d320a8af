"""Which decoder reads a dataset: the one asked for, or the fastest that can run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from loaders.beton.file import JPEG
from loaders.errors import UserError
from loaders.sources import HARDWARE_SHARE, Images, Source
from loaders.sources.folder import FolderSource
from loaders.sources.images import BetonImages
from loaders.sources.quarantine import Quarantine

_CPU = torch.device("cpu")
SOURCES = ("auto", "ffcv", "dali", "memory", "folder", "nvjpeg")
_WORDS = {"ffcv": "FFCV", "dali": "DALI", "memory": "memory", "folder": "Python threads", "nvjpeg": "nvJPEG"}
_MEMORY_LIMIT = 2 << 30  # bytes of pixels up to which "auto" keeps a dataset on the GPU


class NotInstalled(UserError):
    """The package that a source is made of does not load."""


def open_source(
    images: Images,
    source: str,
    threads: int,
    quarantine: Quarantine,
    device: torch.device = _CPU,
    hardware_share: float = HARDWARE_SHARE,
    samples: np.ndarray | None = None,
) -> tuple[Source, str]:
    """Opens the decoder for a dataset.

    Args:
        source: ``"ffcv"`` (FFCV's compiled decoder, ``.beton`` only), ``"dali"`` (NVIDIA's decoder; the GPU's where
            ``device`` is one), ``"memory"`` (decoded once and kept on ``device``), ``"folder"`` (threads on the host),
            ``"nvjpeg"`` (torchvision's decoder on a GPU, whose pixels differ, see ``NvjpegSource``) or ``"auto"``: the
            fastest of those that can run and give the CPU's pixels, which the last does not.
        device: where the crops will be cut.
        hardware_share: share of the images for the JPEG decoder that some GPUs have, when DALI decodes on the GPU.
        samples: ids of those that will be asked for, so that no others are kept in memory; None stands for all.

    Returns:
        The source and a few words that say which one it is and why.

    Raises:
        UserError: an unknown source, one that cannot read these images, or one that is not installed.
    """
    if source not in SOURCES:
        raise UserError(f"unknown source {source!r}: choose one of {', '.join(SOURCES)}")
    missing, candidates = "", _fastest_first(images, device) if source == "auto" else [source]
    for name in candidates:
        try:
            opened = _open(images, name, threads, quarantine, device, hardware_share, samples)
            return opened, _WORDS[name] + missing
        except NotInstalled as error:
            if name == source:
                raise
            missing = missing or f", since {error}"
    raise AssertionError("the folder source is always installed")


def _open(
    images: Images,
    source: str,
    threads: int,
    quarantine: Quarantine,
    device: torch.device,
    hardware_share: float,
    samples: np.ndarray | None,
) -> Source:
    if source == "ffcv":
        if not isinstance(images, BetonImages):
            raise UserError(f"FFCV reads .beton files, and {images.path} is none: convert it with tools/write_ffcv.py")
        try:
            return import_ffcv_source()(images, threads, quarantine, pinned=device.type == "cuda")
        except ImportError as error:
            cure = "run make setup, or see the README's installation notes"
            raise NotInstalled(f"FFCV does not load ({error}): {cure}") from error
    if source == "dali":
        try:
            from loaders.sources.dali import DaliSource
        except ImportError as error:
            cure = "pip install -c constraints.txt -e '.[dali-cuda13]', or dali-cuda12 beside a PyTorch for CUDA 12"
            raise NotInstalled(f"DALI does not load ({error}): {cure}") from error
        return DaliSource(images, threads, quarantine, device, hardware_share)
    if source == "memory":
        from loaders.sources.memory import MemorySource

        return MemorySource(images, threads, quarantine, device, samples)
    if source == "nvjpeg":
        if device.type != "cuda":
            cure = "data.source=folder reads the same files"
            raise UserError(f"nvJPEG decodes on a GPU, and the device is {device}: {cure}")
        from loaders.sources.nvjpeg import NvjpegSource

        return NvjpegSource(images, threads, quarantine, device)
    return FolderSource(images, threads, quarantine, pinned=device.type == "cuda")


def _fastest_first(images: Images, device: torch.device) -> list[str]:
    on_gpu, decoded_bytes = device.type == "cuda", images.decoded_bytes
    is_beton = isinstance(images, BetonImages)
    order = ["ffcv"] if is_beton else []
    if on_gpu and decoded_bytes is not None and decoded_bytes <= _MEMORY_LIMIT:
        order.insert(0, "memory")
    holds_files = (images.modes == JPEG).all() if is_beton else decoded_bytes is None
    if on_gpu and holds_files:
        order.append("dali")
    return [*order, "folder"]


def import_ffcv_source() -> Callable[..., Source]:
    """``BetonSource``; raises ``ImportError`` where FFCV does not load."""
    threads = torch.get_num_threads()
    try:
        from loaders.sources.beton import BetonSource
    finally:
        torch.set_num_threads(threads)  # importing FFCV sets it to 1
    return BetonSource
