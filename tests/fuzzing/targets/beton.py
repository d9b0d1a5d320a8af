"""``.beton`` files with bytes changed, put in, taken out or cut off: read as pixels, or refused with a sentence."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from loaders.beton.convert import convert
from loaders.beton.encoding import Storage
from loaders.datasets.split import Split
from loaders.image_reading import BadImage
from loaders.sources import open_images
from tests.fuzzing import check_sentence, refusals

_COUNT = 3
_PAGE = 1 << 23

# Where a file is full of meaning: header, fields, rows; and its end, the names and the allocation table.
_place = st.one_of(st.integers(0, 2200), st.integers(-400, -1), st.integers(_PAGE, _PAGE + 3000))
_value = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 127, 128, 254, 255]))
_change = st.one_of(
    st.tuples(st.just("set"), _place, _value),
    st.tuples(st.just("add"), _place, st.sampled_from([1, 255])),
    st.tuples(st.just("cut"), _place, st.just(0)),
    st.tuples(st.just("put in"), _place, st.integers(1, 64)),
    st.tuples(st.just("take out"), _place, st.integers(1, 64)),
)
examples = st.tuples(st.booleans(), st.lists(_change, min_size=1, max_size=4))


def check(example: tuple[bool, list[tuple[str, int, int]]]) -> None:
    raw, changes = example
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.beton"
        path.write_bytes(changed(whole(raw), changes))
        with refusals():
            images = open_images(path)
            for i in range(len(images)):
                try:
                    pixels = images.decode(i)
                except BadImage as error:
                    check_sentence(str(error))
                    continue
                assert pixels.dtype == torch.uint8 and pixels.shape[2] == 3 and pixels.numel()
                assert pixels.shape[:2] == (images.heights[i], images.widths[i])
            names, classes = images.names, images.classes
            assert len(names) == len(images) and all(isinstance(name, str) for name in names)
            assert all(isinstance(name, str) for name in classes)
            images.source.encode("ascii")


def changed(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    """A file's bytes after some changes: (what, where, how)."""
    found = bytearray(data)
    for what, place, value in changes:
        if not found:
            break
        place %= len(found)
        if what == "set":
            found[place] = value
        elif what == "add":
            found[place] = (found[place] + value) % 256
        elif what == "cut":
            del found[place:]
        elif what == "put in":
            found[place:place] = bytes(i % 256 for i in range(value))
        else:
            del found[place : place + value]
    return bytes(found)


@functools.cache
def whole(raw: bool) -> bytes:
    """A sound file of three images."""
    images = [np.random.default_rng(i).integers(0, 256, (16 + i, 12, 3), np.uint8) for i in range(_COUNT)]
    names = [f"a/{i}.png" for i in range(_COUNT)]
    split = Split(names, np.arange(_COUNT) % 2, ["a", "b"], images.__getitem__, "fuzzing", raw)
    with tempfile.TemporaryDirectory() as folder:
        convert(split, Path(folder) / "whole.beton", Storage(raw=raw), threads=1)
        return (Path(folder) / "whole.beton").read_bytes()
