"""Parquet files of several layouts, and damaged: the rows that ``pyarrow`` was given, or one sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from loaders.datasets.places import open_place
from tests.fuzzing import check_sentence, refusals
from tests.fuzzing.targets.beton import changed

IN_SUITE = 40
MEMORY = 3 << 30  # a damaged page may say that it holds up to 2 GiB

_path = st.one_of(st.none(), st.sampled_from(["a/0.jpg", "1.png", "", "é.jpg"]), st.text(max_size=4))
_row = st.tuples(
    st.one_of(st.none(), st.binary(max_size=40)),
    _path,
    st.one_of(st.none(), st.integers(0, 2), st.sampled_from([-1, -2, 3, 1 << 40])),
)
_huggingface = st.one_of(
    st.none(),
    st.sampled_from(["", "[]", "{}", "[" * 5000, '{"info": 3}', '{"info": {"features": [1]}}', "9" * 5000]),
    st.sampled_from([["a", "b", "c"], ["a", "a", "a"], [1, 2, 3], [None], [], "abc"]),
)
_text = st.sampled_from(["string", "large_string", "binary", "int64"])
_place = st.one_of(st.integers(0, 400), st.integers(-1500, -1), st.integers(-12, -1))
_change = st.one_of(
    st.tuples(st.just("set"), _place, st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))),
    st.tuples(st.sampled_from(["cut", "add"]), _place, st.just(1)),
    st.tuples(st.sampled_from(["put in", "take out"]), _place, st.integers(1, 64)),
)
examples = st.fixed_dictionaries(
    {
        "files": st.lists(st.lists(_row, max_size=5), min_size=1, max_size=2),
        "columns": st.sampled_from(["image", "img", "two images", "no image"]),
        "label": st.sampled_from(["label", "fine_label", "class", None]),
        "label_type": st.sampled_from(["int64", "int8", "uint8", "string", "float64"]),
        "huggingface": _huggingface,
        "types": st.one_of(
            st.just(("binary", "string")), st.just(("large_binary", "large_string")), st.tuples(_text, _text)
        ),
        "group": st.integers(1, 3),
        "changes": st.lists(_change, max_size=2),
    }
)


def check(example: dict) -> None:
    tables = [_table(rows, example) for rows in example["files"]]
    if any(table is None for table in tables):
        return
    with tempfile.TemporaryDirectory() as place:
        for i, table in enumerate(tables):
            pyarrow.parquet.write_table(table, Path(place) / f"{i}.parquet", row_group_size=example["group"])
        first = Path(place) / "0.parquet"
        first.write_bytes(changed(first.read_bytes(), example["changes"]))
        rows = [row for rows in example["files"] for row in rows]
        with refusals():
            split = open_place(Path(place))
            if split is None:
                return
            names = list(split.names)
            assert len(names) == len(split) == len(set(names)) > 0
            assert all(isinstance(name, str) for name in [*names, *split.classes])
            assert split.labels.dtype == np.int64 and split.labels.min() >= -1
            assert not split.classes or split.labels.max() < len(split.classes)
            assert len(split.sizes()) == len(split) and split.fingerprint
            for i in range(len(split)):
                try:
                    data = split.load(i)
                except OSError as error:
                    check_sentence(str(error))
                    continue
                assert isinstance(data, bytes)
                assert example["changes"] or data == rows[i][0]
            if not example["changes"] and example["label"] in ("label", "fine_label"):
                expected = [-1 if label is None else label for _, _, label in rows]
                assert split.labels.tolist() == (expected if "int" in example["label_type"] else [-1] * len(rows))


def _table(rows: list[tuple[bytes | None, str | None, int | None]], example: dict) -> pyarrow.Table | None:
    """A file's rows; None where a label does not fit its type."""
    kinds = [getattr(pyarrow, kind)() for kind in example["types"]]
    try:
        parts = [pyarrow.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
    except (pyarrow.ArrowException, UnicodeEncodeError, UnicodeDecodeError):
        return None
    images = pyarrow.StructArray.from_arrays(parts, ["bytes", "path"])
    names = {"image": ["image"], "img": ["img"], "two images": ["image", "mask"], "no image": []}[example["columns"]]
    columns = dict.fromkeys(names, images)
    if example["label"] is not None:
        kind = example["label_type"]
        labels = [label if label is None or kind != "string" else str(label) for _, _, label in rows]
        try:
            columns[example["label"]] = pyarrow.array(labels, getattr(pyarrow, kind)())
        except (pyarrow.ArrowInvalid, OverflowError):
            return None
    table = pyarrow.table(columns or {"text": pyarrow.array(["a"] * len(rows))})
    about = example["huggingface"]
    if about is not None:
        if isinstance(about, list) or about == "abc":
            feature = {"_type": "ClassLabel", "names": about}
            about = json.dumps({"info": {"features": {example["label"] or "label": feature}}})
        table = table.replace_schema_metadata({"huggingface": about})
    return table
