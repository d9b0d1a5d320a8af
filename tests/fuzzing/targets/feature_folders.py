"""Folders of kept features, their files cut off, changed, lost or exchanged: the features, or one sentence."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fastintl.evaluate import features as kept
from tests.fuzzing import refusals
from tests.fuzzing.targets.beton import changed

_COUNT, _CHANNELS = 5, 4
_FILES = ("meta.json", "complete.json", "features.npy", "labels.npy", "ids.npy", "done.npy")
_place = st.one_of(st.integers(0, 300), st.integers(-200, -1))
_change = st.one_of(
    st.tuples(st.just("set"), _place, st.integers(0, 255)),
    st.tuples(st.just("cut"), _place, st.just(0)),
    st.tuples(st.just("put in"), _place, st.integers(1, 64)),
    st.tuples(st.just("take out"), _place, st.integers(1, 64)),
)
_of_a_file = st.one_of(
    st.lists(_change, min_size=1, max_size=3), st.sampled_from(["lost", "a folder", "empty", "zeros", *_FILES])
)
examples = st.dictionaries(st.sampled_from(_FILES), _of_a_file, min_size=1, max_size=3)
META = {
    "backbone": "b.pt", "data": "images", "count": _COUNT, "sha256": "0" * 64, "arch": "resnet8", "stem": "small",
    "target": False, "resize": 24, "size": 20, "flip_average": False, "stored_blake2b": "1" * 64,
}  # fmt: skip


def check(example: dict[str, list[tuple[str, int, int]] | str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "features"
        shutil.copytree(whole(), folder)
        for name, change in example.items():
            damage(folder / name, change)
        expected = kept.load_features(whole())
        with refusals():
            found = kept.load_features(folder)
            for column in ("features", "labels", "ids"):
                # Without complete.json, as older versions left it, other numbers cannot be told from the right ones.
                if (folder / "complete.json").exists():
                    np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
                assert getattr(found, column).shape == getattr(expected, column).shape
        with refusals():
            kept._begin(folder, META, _CHANNELS)  # the folder is then as wanted, or refused
            assert [array.shape[0] for array in kept._open_columns(folder, "r+")] == [_COUNT] * 4
            assert json.loads((folder / "meta.json").read_text())["stored_blake2b"] == META["stored_blake2b"]


def damage(path: Path, change: list[tuple[str, int, int]] | str) -> None:
    data = path.read_bytes()
    if isinstance(change, list):
        path.write_bytes(changed(data, change))
    elif change in _FILES:
        path.write_bytes((whole() / change).read_bytes())
    elif change == "zeros":
        path.write_bytes(data[:100] + bytes(len(data) - 100) if len(data) > 100 else bytes(len(data)))
    else:
        path.unlink()
        if change == "a folder":
            path.mkdir()
        elif change == "empty":
            path.touch()


@functools.cache
def whole() -> Path:
    """A sound folder, left where it is until the process ends."""
    folder = Path(tempfile.mkdtemp()) / "whole"
    kept._begin(folder, META, _CHANNELS)
    *columns, done = kept._open_columns(folder, "r+")
    columns[0][:] = np.random.default_rng(0).random((_COUNT, _CHANNELS), np.float32)
    columns[1][:], columns[2][:], done[:] = np.arange(_COUNT) % 2, np.arange(_COUNT), True
    for column in (*columns, done):
        column.flush()
    (folder / "complete.json").write_text(json.dumps(kept._digests(columns)))
    return folder
