"""Files whose index or header was changed: refused by name, or their images replaced, by every decoder alike."""

import numpy as np
import pytest

from loaders.beton.file import FIELD, HEADER, ROW, BetonFile
from loaders.errors import UserError
from tests.helpers.decoding import decode_all

_ROWS = HEADER.itemsize + 2 * FIELD.itemsize


def with_rows(data: bytes, change) -> bytes:
    found = bytearray(data)
    change(np.frombuffer(found, ROW, 60, _ROWS)["image"])
    return bytes(found)


def with_bytes(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def no_height(rows: np.ndarray) -> None:
    rows["height"][3] = 0


def gigantic(rows: np.ndarray) -> None:
    rows["height"][3] = rows["width"][3] = 65535


def beyond_all_numbers(rows: np.ndarray) -> None:
    rows["pointer"][3] = 2**63 - 2


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: with_rows(data, no_height), "the index of image 3 is wrong"),
        (lambda data: with_rows(data, gigantic), "the index of image 3 is wrong"),
        (lambda data: with_rows(data, beyond_all_numbers), "is truncated"),
        (lambda data: with_bytes(data, data.index(b"fastintl") + 30, b"\xe9"), "does not say what it was written from"),
        (lambda data: with_bytes(data, HEADER.itemsize + 1, b"im\nge"), r"has the fields im\\nge, label; an image"),
    ],
)
def test_a_changed_index_or_header_is_a_sentence(image_beton, tmp_path, damage, says):
    (tmp_path / "x.beton").write_bytes(damage(image_beton.read_bytes()))
    with pytest.raises(UserError, match=says) as caught:
        BetonFile(tmp_path / "x.beton")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["folder", "memory", "ffcv", "dali"])
def test_a_jpeg_of_another_size_than_indexed_is_replaced_by_every_decoder(image_beton, tmp_path, source):
    """libjpeg-turbo would scale it to the size asked for, and DALI take its own."""
    pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}.get(source, "torch"))

    def halve(rows: np.ndarray) -> None:
        rows["height"][3], rows["width"][3] = rows["height"][3] // 2, rows["width"][3] // 2

    (tmp_path / "x.beton").write_bytes(with_rows(image_beton.read_bytes(), halve))
    ((_, _, _, _, ids),) = decode_all(tmp_path / "x.beton", source, [np.array([1, 3, 5])], listed=tmp_path / "list.txt")
    assert ids[0] == 1 and ids[1] != 3 and ids[2] == 5
    assert ", its index says " in (tmp_path / "list.txt").read_text()
