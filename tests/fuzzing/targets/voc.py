"""Sets in VOC's layout, sound ones and odd ones: refused with a sentence, or perfect detections score 100 %."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fastintl.detection.average_precision import voc_metrics
from fastintl.detection.voc import read_voc
from tests.fuzzing import refusals
from tests.fuzzing.annotated import check_objects, perfect, write_grey

_CLASSES = ("disc", "square", "Fläche")
_number = st.one_of(
    st.integers(-5, 60).map(str),
    st.floats(-5, 60).map(str),
    st.sampled_from(["", " 7 ", "nan", "inf", "1e400", "-1", "0", "1e300", "seven", "0x7"]),
)
_mark = st.sampled_from(["0", "1", "", " 1 ", "absent", "2", "yes", "Unspecified"])
_kind = st.sampled_from([*_CLASSES, *_CLASSES, "", "cat", " disc "])
_object = st.tuples(_kind, st.one_of(st.tuples(*[_number] * 4), st.just(("3", "4", "9", "12"))), _mark)
_size = st.sampled_from(["right", "right", "right", "0", "absent", "turned", "nan", "-3", "48.0", "x"])
_encoding = st.sampled_from(["utf-8", "utf-8", "latin-1", "utf-16", "utf-8-sig", "undeclared latin-1", "klingon"])
_damage = st.one_of(st.none(), st.tuples(st.integers(0, 300), st.integers(0, 255)))
_image = st.tuples(st.integers(1, 60), st.integers(1, 60), _size, _encoding, st.lists(_object, max_size=5), _damage)
_list = st.sampled_from(["\n", "\r\n", " 1\n", "\n\n", "twice"])
examples = st.tuples(st.lists(_image, min_size=1, max_size=3), _list)


def check(example: tuple[list, str]) -> None:
    images, ends = example
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), images, ends)
        with refusals():
            annotated = read_voc(Path(name), "VOC2007/test", _CLASSES)
            check_objects(annotated, masks=False)
            counted = sum(int((~image.difficult).sum()) for image in annotated.images)
            if counted:
                metrics = voc_metrics(annotated, perfect(annotated, masks=False))
                assert all(value == pytest.approx(1, abs=1e-9) for value in metrics.values()), metrics


def write(root: Path, images: list, ends: str) -> None:
    home = root / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (home / folder).mkdir(parents=True)
    names = [f"{i:06}" for i in range(len(images))]
    for name, (height, width, size, encoding, objects, damage) in zip(names, images, strict=True):
        write_grey(home / "JPEGImages" / f"{name}.jpg", height, width)
        sides = {"right": (height, width), "turned": (width, height)}.get(size, (size, size))
        stated = "" if size == "absent" else f"<size><height>{sides[0]}</height><width>{sides[1]}</width></size>"
        text = f"<annotation>{stated}{''.join(map(_xml, objects))}</annotation>"
        declared = "" if encoding.startswith("undeclared") else f"<?xml version='1.0' encoding='{encoding}'?>"
        codec = {"undeclared latin-1": "latin-1", "klingon": "utf-8"}.get(encoding, encoding)
        declared = declared.replace("utf-8-sig", "utf-8")
        data = bytearray((declared + text).encode(codec))
        if damage is not None:
            data[damage[0] % len(data)] = damage[1]
        (home / "Annotations" / f"{name}.xml").write_bytes(data)
    listed = "\n".join(names * 2) if ends == "twice" else ends.join([*names, ""])
    (home / "ImageSets" / "Main" / "test.txt").write_bytes(listed.encode())


def _xml(found: tuple[str, tuple[str, ...], str]) -> str:
    kind, box, mark = found
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    marked = "" if mark == "absent" else f"<difficult>{mark}</difficult>"
    return f"<object><name>{kind}</name>{marked}<bndbox>{sides}</bndbox></object>"
