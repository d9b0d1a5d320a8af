"""Features of a whole dataset in a folder of memory-mapped arrays, written in any number of sittings.

A folder holds ``features.npy`` (n, d) float32, ``labels.npy`` and ``ids.npy`` (n,) int64, all in the dataset's
order, ``done.npy`` (n,) bool, which rows are written, and ``meta.json``, which says what they are of.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from torch import nn

from fastintl.distributed import World
from fastintl.evaluate.features import StoredFeatures, feature_batches
from loaders import Loader, UserError
from loaders.files import write_text
from loaders.order import Order
from loaders.progress import Progress

_META = "meta.json"
# These say where things were found and with what they were read; the features are the same from elsewhere.
_MAY_DIFFER = ("backbone", "data", "versions")
_FLUSH_SECONDS = 10.0


def is_feature_folder(path: Path) -> bool:
    """Whether the path is a folder that ``write_features`` began."""
    return (path / _META).exists()


def load_features(folder: str | Path) -> StoredFeatures:
    """Opens a folder that ``write_features`` finished; takes next to no memory.

    Raises:
        UserError: no such folder, or one that is not finished.
    """
    folder = Path(folder)
    if not is_feature_folder(folder):
        raise UserError(f"{folder} holds no {_META}: it is no folder of features, which tools/features.py writes")
    features, labels, ids, done = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS)
    if not done.all():
        missing = len(done) - int(done.sum())
        raise UserError(f"{folder} is not finished, {missing:,} features are missing: start what wrote it again")
    return StoredFeatures(features, labels, ids, json.loads((folder / _META).read_text()))


def write_features(
    folder: Path,
    network: nn.Module,
    open_loader: Callable[[np.ndarray], Loader],
    batch_size: int,
    meta: Mapping[str, Any],
    world: World,
) -> int:
    """Writes the features of every sample once, each rank those of its share; goes on where it was stopped.

    Args:
        folder: where to; the ranks share it.
        network: (b, 3, s, s) -> (b, d), in evaluation mode, with ``feature_dim``.
        open_loader: from samples to this rank's share of a centre-crop loader over them, of this batch size.
        batch_size: over all ranks; may differ between sittings, like their number.
        meta: what the features are of; ``count``, the number of samples, and ``flip_average`` are read here.

    Returns:
        How many samples were done in earlier sittings.

    Raises:
        UserError: the folder holds features of something else or cannot be written, or the ranks that are to write it
            are on several machines.
    """
    if world.is_main:
        _begin(folder, dict(meta), network.feature_dim)
    world.barrier()
    features, labels, ids, done = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _COLUMNS)
    missing = np.flatnonzero(~done)
    world.barrier()  # nobody marks a row before all have counted
    if len(missing):
        _require_one_machine(folder, world)
        order = Order(missing, batch_size, shuffled=False, rank=world.rank, world_size=world.world_size)
        mine = [rows for rows in order.batches(0) if len(rows)]
        loader = open_loader(missing)
        batches = feature_batches(network.to(world.device), loader, world.device, meta["flip_average"])
        marks = _Marks((features, labels, ids), done)
        title = Progress("features", "images", len(done), len(done) - len(missing))
        try:
            with title as progress:
                for rows, (values, their_labels, their_ids) in zip(mine, batches, strict=True):
                    features[rows], labels[rows], ids[rows] = values.numpy(), their_labels.numpy(), their_ids.numpy()
                    marks.add(rows)
                    progress.advance(len(rows) * world.world_size)
        finally:
            marks.flush()
            loader.close()
    world.barrier()
    return len(done) - len(missing)


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


_COLUMNS = {"features": np.float32, "labels": np.int64, "ids": np.int64, "done": np.bool_}


def _require_one_machine(folder: Path, world: World) -> None:
    # The last row of one rank and the first of the next lie in one page, which each machine writes back as it knows it.
    if int(os.environ.get("LOCAL_WORLD_SIZE", world.world_size)) < world.world_size:
        raise UserError(
            f"{folder} is not finished, and ranks on several machines would spoil each other's pages of its files: "
            "write the features on one machine (torchrun --nnodes 1)"
        )


def _begin(folder: Path, meta: dict[str, Any], channels: int) -> None:
    """Lays out the files, or checks that those there are of the same."""
    if is_feature_folder(folder):
        there = json.loads((folder / _META).read_text())
        wanted = json.loads(json.dumps(meta))
        keys = (key for key in {**there, **wanted} if key not in _MAY_DIFFER)
        other = sorted(key for key in keys if there.get(key) != wanted.get(key))
        if other:
            raise UserError(f"{folder} holds features of another {', '.join(other)}: name another folder, or remove it")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, kind in _COLUMNS.items():
            shape = (meta["count"], channels) if name == "features" else (meta["count"],)
            path = folder / f"{name}.npy"
            open_memmap(path, mode="w+", dtype=kind, shape=shape)
            with open(path, "r+b") as file:  # room now: a full disk later would kill the process at a page
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        write_text(folder / _META, json.dumps(meta, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
