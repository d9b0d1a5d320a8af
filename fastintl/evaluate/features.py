"""Features of a whole dataset, every sample once at any world size: in memory, or in a folder that can be resumed.

A folder holds ``features.npy`` (n, d) float32, ``labels.npy`` and ``ids.npy`` (n,) int64, all in the dataset's
order, ``done.npy`` (n,) bool, which rows are written, ``meta.json``, which says what they are features of, and once all
are written ``complete.json``, which tells whether the arrays are still what was written. ``names.txt`` has the images'
names, one line a row, in which a backslash, a line's end and bytes that are no UTF-8 are written as escapes (``\\\\``,
``\\n``, ``\\xff``).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import nn

from fastintl.distributed import World
from fastintl.distributed.collectives import gather_rows
from fastintl.evaluate.backbone import EvaluatedBackbone, Reading
from fastintl.evaluate.results import versions
from fastintl.runs.fingerprint import fingerprint
from loaders import Loader, UserError
from loaders.content import content_digest, digest_of
from loaders.errors import writing
from loaders.files import write_json, write_text
from loaders.order import Order
from loaders.progress import Progress
from loaders.sources import Images, open_images

# The outputs for so many images stay in a CPU's cache from layer to layer: ResNet-8 at 64 px takes 256 images in
# eight parts in 0.53 of the time that it takes them at once.
_CPU_IMAGES = 32
_META, _COMPLETE, _NAMES = "meta.json", "complete.json", "names.txt"
_COLUMNS = {"features": np.float32, "labels": np.int64, "ids": np.int64, "done": np.bool_}
# These say where things were found and with what they were read; the features are the same from elsewhere.
_MAY_DIFFER = ("backbone", "data", "versions", "classes")
# What must be equal in two sets, or their distances mean nothing.
_OF_THE_VIEW = ("resize", "size", "mean", "std", "interpolation", "flip_average")
_OF_THE_BACKBONE = ("sha256", "arch", "stem", "target", *_OF_THE_VIEW)
_CONTENT = "stored_blake2b"  # which older versions did not know
_ALWAYS = {"backbone", "data", "count", "sha256", "arch", "stem", "target", "resize", "size", "flip_average"}
_BLOCK = 1 << 16  # bytes of an array that are compared, or not, together
_FLUSH_SECONDS = 10.0


@dataclass(frozen=True)
class StoredFeatures:
    """A finished folder: features (n, d), labels and ids (n,), mapped from their files; ``meta`` as it was written."""

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    meta: dict[str, Any]


@dataclass
class Features:
    """Features (n, d) float32 with labels and sample ids (n,) int64, on the CPU, ordered by id."""

    features: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def of(cls, stored: StoredFeatures) -> Features:
        """The features of a folder, read into memory."""
        return cls(*(torch.from_numpy(np.array(column)) for column in (stored.features, stored.labels, stored.ids)))


# In memory


def extract(
    network: nn.Module, loader: Loader, device: torch.device, batch_done: Callable[[], object] | None = None
) -> Features:
    """Runs a network in evaluation mode over a centre-crop loader.

    The network's mode is restored and nothing of its state changes.

    Args:
        network: maps views (b, 3, s, s) to features (b, …), which are flattened.
        loader: this rank's share of the dataset.
        batch_done: is called after each batch, for a display of the progress.

    Returns:
        The features of this rank's share, on the CPU; ``of_all_ranks`` brings the shares together.
    """
    was_training = network.training
    network.eval()
    parts = []
    for part in feature_batches(network, loader, device):
        parts.append(part)
        if batch_done is not None:
            batch_done()
    network.train(was_training)
    if not parts:  # a rank may have no share of a small dataset at all
        none = torch.empty(0, dtype=torch.int64)
        return Features(torch.empty(0, 0), none, none)
    return _by_id(*(torch.cat(column) for column in zip(*parts, strict=True)))


def of_all_ranks(share: Features, world: World, everywhere: bool = True) -> Features | None:
    """The features of all ranks' shares, on the CPU; every rank must call it.

    Args:
        everywhere: every rank gets them; otherwise rank 0 alone does, and the others None.
    """
    if world.world_size == 1:
        return share
    features = gather_rows(share.features, world, everywhere)
    labels_and_ids = gather_rows(torch.stack([share.labels, share.ids], 1), world, everywhere)
    return None if features is None else _by_id(features, *labels_and_ids.unbind(1))


def labels_of_all_ranks(share: Features, world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels (N,) of all ranks' samples in the order of their ids, and which of them (n,) this share's are."""
    pairs = gather_rows(torch.stack([share.ids, share.labels], 1), world, everywhere=True)
    ids, order = pairs[:, 0].sort(stable=True)
    return pairs[order, 1], torch.searchsorted(ids, share.ids)


def _by_id(features: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> Features:
    order = torch.argsort(ids)
    return Features(features[order], labels[order], ids[order])


@torch.inference_mode()
def feature_batches(
    network: nn.Module, loader: Loader, device: torch.device, flip_average: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Features (b, d) float32, labels and ids (b,) of the batches of a centre-crop loader, on the CPU.

    Args:
        network: maps views (b, 3, s, s) to features (b, …); in evaluation mode.
        flip_average: take the mean of the features of each view and of its mirror image.
    """
    loader.set_position(0, 0)
    for batch in loader:
        views = batch.views[0].to(device, non_blocking=True)
        features = represent(network, views)
        if flip_average:
            features = (features + represent(network, views.flip(3))) / 2
        yield features.cpu(), batch.labels, batch.ids


def represent(network: nn.Module, views: torch.Tensor) -> torch.Tensor:
    """A network's outputs for views (b, 3, s, s), flattened: (b, d) float32.

    In evaluation mode only, where an image's features do not depend on the others: a CPU takes a few at a time.
    """
    parts = views.split(_CPU_IMAGES) if views.device.type == "cpu" else [views]
    return torch.cat([network(part).flatten(1).float() for part in parts])


# In a folder


def features_of(
    backbone: EvaluatedBackbone, data: Path, folder: Path, world: World, reading: Reading, flip_average: bool = False
) -> StoredFeatures:
    """The features of all images in ``data``, written to ``folder`` where they are not there yet.

    Each rank writes those of its share. Stopped at any time it is resumed, also with another batch size and another
    number of ranks. What is damaged there, or of a version that did not note the images' content, is made anew.

    Raises:
        UserError: no images there, the folder holds features of something else or cannot be written, or the ranks
            that are to write it are on several machines.
    """
    images = open_images(data)
    meta = features_meta(backbone, images, flip_average, world)
    return _written(backbone, images, folder, meta, world, reading)


def cached_features(
    backbone: EvaluatedBackbone | None,
    data: Path,
    cache: Path,
    world: World,
    reading: Reading,
    flip_average: bool = False,
) -> StoredFeatures:
    """``features_of`` in a folder below ``cache`` whose name stands for all that the features depend on.

    Args:
        backbone: None: ``data`` is itself a folder of features, and is opened.
    """
    if backbone is None:
        return load_features(data)
    images = open_images(data)
    meta = features_meta(backbone, images, flip_average, world)
    name = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    return _written(backbone, images, cache / name, meta, world, reading)


def features_meta(backbone: EvaluatedBackbone, images: Images, flip_average: bool, world: World) -> dict[str, Any]:
    """What the features of these images depend on; the images are known by names, labels and content."""
    return {
        **backbone.describe(),
        "flip_average": flip_average,
        "count": len(images),
        "pictures_sha256": fingerprint(images),
        _CONTENT: world.from_main(lambda: content_digest(images)),
    }


def _written(
    backbone: EvaluatedBackbone, images: Images, folder: Path, meta: dict[str, Any], world: World, reading: Reading
) -> StoredFeatures:
    network, flip_average = backbone.network, meta["flip_average"]
    if world.is_main:
        places = {"backbone": str(backbone.path), "data": str(images.path), "classes": images.classes}
        _begin(folder, {**places, **meta, "versions": versions()}, network.feature_dim)
        if not (folder / _NAMES).exists():
            with writing(folder / _NAMES):
                write_text(folder / _NAMES, "".join(f"{_on_a_line(name)}\n" for name in images.names))
    world.barrier()
    *columns, done = _open_columns(folder, "r+")
    missing = np.flatnonzero(~done)
    world.barrier()  # nobody marks a row before all have counted
    if len(missing):
        _require_one_machine(folder, world)
        order = Order(missing, reading.batch_size, shuffled=False, rank=world.rank, world_size=world.world_size)
        mine = [rows for rows in order.batches(0) if len(rows)]
        quarantine = folder / "quarantine.txt"
        loader = reading.open_loader(images, backbone.crop, world, samples=missing, quarantine=quarantine)
        batches = feature_batches(network.to(world.device), loader, world.device, flip_average)
        marks = _Marks(columns, done)
        try:
            with Progress("features", "images", len(done), len(done) - len(missing)) as progress:
                for rows, values in zip(mine, batches, strict=True):
                    for column, value in zip(columns, values, strict=True):
                        column[rows] = value.numpy()
                    marks.add(rows)
                    progress.advance(len(rows) * world.world_size)
        finally:
            marks.flush()
            loader.close()
    world.barrier()
    if world.is_main and (len(missing) or not (folder / _COMPLETE).exists()):
        write_json(folder / _COMPLETE, _digests(columns))
    world.barrier()
    return load_features(folder)


def _on_a_line(name: str) -> str:
    escaped = name.replace("\\", "\\\\")
    if len(f"{escaped}.".splitlines()) > 1:
        escaped = "".join(c.encode("unicode_escape").decode() if c.splitlines() == [""] else c for c in escaped)
    return escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def load_features(folder: str | Path) -> StoredFeatures:
    """Opens a folder that ``features_of`` finished; takes next to no memory.

    Raises:
        UserError: no such folder, or one that is not finished, or damaged.
    """
    folder = Path(folder)
    if not (folder / _META).exists():
        raise UserError(f"{folder} holds no {_META}: it is no folder of features, which tools/features.py writes")
    meta = _read_meta(folder)
    if meta is None:
        raise _damaged(folder, f"{_META} cannot be read")
    if problem := _misfit(folder, meta["count"], None) or _change(folder):
        raise _damaged(folder, problem)
    features, labels, ids, done = _open_columns(folder, "r")
    if not done.all():
        missing = len(done) - int(done.sum())
        raise UserError(f"{folder} is not finished, {missing:,} features are missing: start what wrote it again")
    return StoredFeatures(features, labels, ids, meta)


def require_comparable(train: StoredFeatures, val: StoredFeatures) -> None:
    """Raises ``UserError`` where two sets are not of one backbone and view, or their labels of other classes."""
    other = [key for key in _OF_THE_BACKBONE if train.meta.get(key) != val.meta.get(key)]
    if other:
        raise UserError(f"the two sets of features differ in {', '.join(other)}: extract both in the same way")
    of_train, of_val = (stored.meta.get("classes") for stored in (train, val))
    if of_train and of_val and of_train != of_val:  # older versions noted none, nor do files of FFCV's own writer
        raise UserError(
            f"the features of {train.meta['data']} and of {val.meta['data']} do not have the same classes, or not in "
            "the same order: extract both from folders of the same classes"
        )


def _damaged(folder: Path, problem: str) -> UserError:
    return UserError(f"the features in {folder} are damaged, {problem}: copy them again, or write them again")


def _read_meta(folder: Path) -> dict[str, Any] | None:
    """What a folder says its features are of; None where it cannot be read."""
    try:
        meta = json.loads((folder / _META).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return meta if isinstance(meta, dict) and meta.keys() >= _ALWAYS else None


def _misfit(folder: Path, count: int, channels: int | None) -> str | None:
    """Which array is not there as a whole or is of another shape, in words; None if all fit.

    Args:
        channels: of a feature; None: any number.
    """
    for name, kind in _COLUMNS.items():
        try:
            array = np.load(folder / f"{name}.npy", mmap_mode="r")  # "r+" would fill a file that was cut off
        except Exception:  # NumPy raises several types on a damaged header
            return f"{name}.npy is missing or cut off"
        wanted = (count, channels or array.shape[-1]) if name == "features" and array.ndim else (count,)
        if not isinstance(array, np.memmap) or array.dtype != kind or array.shape != wanted:
            return f"{name}.npy does not hold what {_META} says"
    return None


def _change(folder: Path) -> str | None:
    """Which array is not what was written, in words; None if all are, or are not complete, or of an older version."""
    *columns, done = _open_columns(folder, "r")
    if not (folder / _COMPLETE).exists() or not done.all():
        return None
    try:
        written = json.loads((folder / _COMPLETE).read_text())
        found = _digests(columns)
        return next((f"{name}.npy has changed" for name, digest in found.items() if written[name] != digest), None)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{_COMPLETE} cannot be read"


def _digests(columns: Sequence[np.memmap]) -> dict[str, str]:
    """The identity of what is in features, labels and ids, by name: all of it, or enough, see ``loaders.content``."""
    found = {}
    for name, column in zip(_COLUMNS, columns, strict=False):
        data = column.reshape(-1).view(np.uint8)
        sizes = np.diff(np.r_[np.arange(0, len(data), _BLOCK), len(data)])
        found[name] = digest_of(sizes, lambda i, data=data: data[i * _BLOCK : (i + 1) * _BLOCK])
    return found


class _Marks:
    """Marks rows as done when they are on disk, so that a machine that stops leaves no mark without its features."""

    def __init__(self, columns: Sequence[np.memmap], done: np.memmap) -> None:
        self._columns, self._done = columns, done
        self._waiting: list[np.ndarray] = []
        self._last = time.monotonic()

    def add(self, rows: np.ndarray) -> None:
        self._waiting.append(rows)
        if time.monotonic() - self._last > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        for column in self._columns:
            column.flush()
        for rows in self._waiting:
            self._done[rows] = True
        self._done.flush()
        self._waiting, self._last = [], time.monotonic()


def _open_columns(folder: Path, mode: str) -> list[np.memmap]:
    return [np.load(folder / f"{name}.npy", mmap_mode=mode) for name in _COLUMNS]


def _require_one_machine(folder: Path, world: World) -> None:
    # The last row of one rank and the first of the next lie in one page, which each machine writes back as it knows it.
    if int(os.environ.get("LOCAL_WORLD_SIZE", world.world_size)) < world.world_size:
        raise UserError(
            f"{folder} is not finished, and ranks on several machines would spoil each other's pages of its files: "
            "write the features on one machine (torchrun --nnodes 1)"
        )


def _begin(folder: Path, meta: dict[str, Any], channels: int) -> None:
    """Creates the files of a folder, unless those of the same features are there, and whole."""
    if (folder / _META).exists():
        problem = _problem(folder, json.loads(json.dumps(meta)), channels)
        if problem is None:
            return
        print(f"the features in {folder} are made anew: {problem}", file=sys.stderr)
    with writing(folder / _META):
        for name in (_META, _COMPLETE, _NAMES):  # until all is there again
            (folder / name).unlink(missing_ok=True)
        for name, kind in _COLUMNS.items():
            shape = (meta["count"], channels) if name == "features" else (meta["count"],)
            path = folder / f"{name}.npy"
            open_memmap(path, mode="w+", dtype=kind, shape=shape)
            with open(path, "r+b") as file:  # room now: a full disk later would kill the process at a page
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        write_text(folder / _META, json.dumps(meta, indent=2) + "\n")


def _problem(folder: Path, wanted: dict[str, Any], channels: int) -> str | None:
    """Why the features in a folder must be made anew, in words; None where they are those wanted."""
    there = _read_meta(folder)
    if there is None:
        return f"{_META} cannot be read"
    other = sorted(key for key in {**there, **wanted} if key not in _MAY_DIFFER and there.get(key) != wanted.get(key))
    if other == [_CONTENT] and _CONTENT not in there:
        return "an older version wrote them, which did not note what the images hold"
    if other:
        raise UserError(f"{folder} holds features of another {', '.join(other)}: name another folder, or remove it")
    return _misfit(folder, wanted["count"], channels) or _change(folder)
