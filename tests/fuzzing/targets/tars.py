"""Tars of every layout, format and damage: the images that ``tarfile`` finds in them, or one sentence; again from the
index that is kept of them."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st

from loaders.datasets.folder import is_hidden, is_image_name
from loaders.datasets.places import open_place
from loaders.datasets.split import Split
from tests.fuzzing import refusals
from tests.fuzzing.targets.beton import changed

IN_SUITE = 60

_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
_name = st.one_of(
    st.sampled_from(["0.jpg", "a/0.jpg", "a/1.JPEG", "b/0.png", "0.cls", "0.json", "1.jpg", "a/b/0.jpg", "c.tar"]),
    st.sampled_from([".hidden.jpg", "./a/2.jpg", "a//3.jpg", "../x.jpg", "/abs.jpg", "a/é.jpg", "a/0.b.jpg", "a"]),
    st.sampled_from(["a/" + "n" * 120 + ".jpg", "a/" + "é" * 90 + ".png", "n" * 300 + "/0.webp", "readme.txt"]),
    st.text("ab01./é\udc80\n", min_size=1, max_size=9),
)
_content = st.one_of(
    st.sampled_from([b"", b"0", b"1", b"-1", b"7\n", b" 3 ", b"1_0", b"9" * 5000, b'{"label": 1}', b'{"cls": "a"}']),
    st.sampled_from([b"[" * 2000, b'{"label": 1.0}', b"[]", b"\xff\xfe", bytes(600)]),
    st.just(b'{"label": ' + b"9" * 5000 + b"}"),
    st.binary(max_size=700),
)
_kind = st.sampled_from([tarfile.REGTYPE] * 12 + [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
_members = st.lists(st.tuples(_name, _content, _kind), max_size=5)
_place = st.one_of(st.integers(0, 600), st.integers(0, 5000), st.integers(-1100, -1))
_change = st.one_of(
    st.tuples(st.just("set"), _place, st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 48, 128, 255]))),
    st.tuples(st.sampled_from(["cut", "add"]), _place, st.just(1)),
    st.tuples(st.sampled_from(["put in", "take out"]), _place, st.integers(1, 64)),
    st.tuples(st.sampled_from(["put in", "take out"]), _place, st.sampled_from([512, 1024])),
)
# Fields of a header (place, length) with a new text, and the checksum right again.
_field = st.tuples(
    st.integers(0, 6),
    st.sampled_from([(0, 100), (124, 12), (148, 8), (156, 1), (257, 8), (345, 155)]),
    st.one_of(
        st.sampled_from([b"-2000", b"-1", b"1_0", b"+7", b"0x1", b"\xff" * 12, b"7" * 12]),
        st.just(b"\x80" + bytes(10) + b"\x01"),
        st.sampled_from([b"L", b"x", b"g", b"S", b"K", b"1", b"5", b"\0", b"0\n", b"a\0b"]),
        st.binary(max_size=12),
    ),
)
_record = st.dictionaries(
    st.sampled_from(["path", "size", "GNU.sparse.name", "comment", "hdrcharset"]),
    st.sampled_from(["a/9.jpg", "3", "-3", "9" * 5000, "", "x\ny", "0"]),
    max_size=2,
)
_tar = st.tuples(st.sampled_from(sorted(_FORMATS)), _members, _record)
_index = st.dictionaries(
    st.sampled_from(["entries.npy", "names.npy", "ends.npy", "about.json"]),
    st.one_of(
        st.lists(
            st.tuples(st.sampled_from(["set", "cut", "put in", "take out"]), _place, st.integers(1, 64)), min_size=1
        ),
        st.sampled_from([b"", b"[]", b"{}", b'{"images": "a"}', b'{"images": 1, "classes": 3}', b"[" * 5000]),
    ),
    max_size=2,
)
examples = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(["one", "one", "several", "of tars"]),
        "tars": st.lists(_tar, min_size=1, max_size=3),
        "fields": st.lists(_field, max_size=2),
        "changes": st.lists(_change, max_size=2),
        "classes": st.sampled_from([None, "", "a\nb\n", "a"]),
        "index": _index,
    }
)


def check(example: dict) -> None:
    written = [_with_fields(_written(*tar), example["fields"]) for tar in example["tars"]]
    if example["layout"] == "of tars":
        inner = [(f"{i}.tar", data, tarfile.REGTYPE) for i, data in enumerate(written)]
        written = [_written("gnu", inner, {})]
    elif example["layout"] == "one":
        del written[1:]
    written[0] = changed(written[0], example["changes"])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tars"
        folder.mkdir()
        for i, data in enumerate(written):
            (folder / f"{i}.tar").write_bytes(data)
        if example["classes"] is not None:
            (folder / "classnames.txt").write_text(example["classes"])
        with patch.dict(os.environ, {"XDG_CACHE_HOME": str(Path(place) / "cache")}):
            _check_place(folder, example["index"])


def _check_place(folder: Path, damage: dict) -> None:
    with refusals():
        first = open_place(folder)
        if first is None:
            return
        _check_split(first)
        _check_against_tarfile(first, sorted(folder.glob("*.tar")))
        (index,) = (path for path in Path(os.environ["XDG_CACHE_HOME"]).glob("fastintl/tar_indexes/*") if path.is_dir())
        for name, change in damage.items():
            data = (index / name).read_bytes()
            (index / name).unlink()  # a file that is cut while it is mapped would end this process
            (index / name).write_bytes(change if isinstance(change, bytes) else changed(data, change))
        again = open_place(folder)
        assert again is not None and _shown(again) == _shown(first), "another dataset from the kept index"


def _shown(split: Split) -> tuple:
    return list(split.names), split.labels.tolist(), split.classes, [split.load(i) for i in range(len(split))]


def _check_split(split: Split) -> None:
    names = list(split.names)
    assert len(names) == len(split) == len(set(names)) > 0 and all(names)
    assert split.labels.dtype == np.int64 and split.labels.min() >= -1
    assert not split.classes or split.labels.max() < len(split.classes)
    assert split.sizes().tolist() == [len(split.load(i)) for i in range(len(split))]
    assert split.fingerprint


def _check_against_tarfile(split: Split, tars: list[Path]) -> None:
    """The same bytes of as many images as Python's own reader finds."""
    expected: list[bytes] = []
    try:
        for tar in tars:
            expected += _images(tar.read_bytes())
    except UnicodeDecodeError:  # its own fault: it takes PAX's records for UTF-8 before it knows their encoding
        return
    assert sorted(expected) == sorted(split.load(i) for i in range(len(split)))


def _images(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = [member for member in tar.getmembers() if member.isreg()]
        for member in members:
            name = "/".join(part for part in member.name.split("/") if part not in ("", "."))
            if any(is_hidden(part) for part in name.split("/")):
                continue
            content = tar.extractfile(member).read()
            if name.lower().endswith(".tar"):
                found += _images(content)
            elif is_image_name(name):
                found.append(content)
    return found


def _written(kind: str, members: list[tuple[str, bytes, bytes]], records: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=_FORMATS[kind], errors="surrogateescape") as tar:
        for number, (name, content, type_flag) in enumerate(members):
            member = tarfile.TarInfo(name)
            member.type = type_flag
            member.size = len(content) if type_flag == tarfile.REGTYPE else 0
            member.linkname = "a" if type_flag in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            if records and number == 0 and kind == "pax":
                member.pax_headers = dict(records)
            try:
                tar.addfile(member, io.BytesIO(content))
            except ValueError:  # a name that the format cannot hold
                continue
    return stream.getvalue()


def _with_fields(data: bytes, fields: list[tuple[int, tuple[int, int], bytes]]) -> bytes:
    """The tar with fields of its first headers replaced, and their checksums made right."""
    found = bytearray(data)
    for number, (place, length), text in fields:
        start = 512 * number
        if start + 512 > len(found):
            continue
        text = text[:length]
        found[start + place : start + place + length] = text + bytes(length - len(text))
        if place != 148:
            found[start + 148 : start + 156] = b" " * 8
            found[start + 148 : start + 156] = b"%06o\0 " % sum(found[start : start + 512])
    return bytes(found)
