"""Which images keep their labels: percentages, lists of names, and what is wrong with a list."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fastintl.evaluate import subset
from loaders import UserError

NAMES = [f"n{c:08}/n{c:08}_{i}.JPEG" for c in range(4) for i in range(50)]
LABELS = np.repeat(np.arange(4), 50)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_percentage_is_the_same_of_every_class_and_a_function_of_the_seed():
    ids = subset.balanced(LABELS, 10, seed=1)
    assert np.bincount(LABELS[ids]).tolist() == [5] * 4 and (np.diff(ids) > 0).all()
    assert np.array_equal(ids, subset.balanced(LABELS, 10, seed=1))
    assert not np.array_equal(ids, subset.balanced(LABELS, 10, seed=2))
    assert set(ids) <= set(subset.balanced(LABELS, 30, seed=1))
    assert np.array_equal(subset.balanced(LABELS, 100), np.arange(200))


def test_every_class_keeps_an_image():
    assert np.bincount(LABELS[subset.balanced(LABELS, 0.1)]).tolist() == [1] * 4


@pytest.mark.parametrize("percent", [0, -1, 101, float("nan")])
def test_a_percentage_out_of_range_is_refused(percent):
    with pytest.raises(UserError, match="--percent"):
        subset.balanced(LABELS, percent)


def test_a_list_names_images_with_or_without_their_folder(tmp_path):
    path = write(tmp_path, "n00000001_3.JPEG", "", "n00000000/n00000000_7.JPEG", "n00000001_3.JPEG")
    assert subset.listed(NAMES, path).tolist() == [7, 53]
    assert subset.listed([name.rpartition("/")[2] for name in NAMES], write(tmp_path, "n00000003_0.JPEG")) == [150]


def test_names_that_no_image_has_are_counted_and_one_is_shown(tmp_path):
    with pytest.raises(UserError, match=r"2 of 3 names that no image .* n9_1.JPEG"):
        subset.listed(NAMES, write(tmp_path, "n9_1.JPEG", "n00000001_3.JPEG", "n9_2.JPEG"))


def test_names_of_several_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="several images"):
        subset.listed(["a/1.jpg", "b/1.jpg"], write(tmp_path, "1.jpg"))


def test_lists_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        subset.listed(NAMES, write(tmp_path, "", "  "))
    with pytest.raises(UserError, match="cannot be read"):
        subset.listed(NAMES, tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text"):
        subset.listed(NAMES, tmp_path / "binary.txt")


def test_a_public_list_is_fetched_once_and_checked(tmp_path, monkeypatch):
    source = write(tmp_path, "n00000001_3.JPEG")
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setitem(subset.PUBLIC_LISTS, "imagenet-1pct", (source.as_uri(), checksum))
    path = subset.public_list("imagenet-1pct", tmp_path / "lists")
    source.unlink()
    assert subset.public_list("imagenet-1pct", tmp_path / "lists") == path
    assert subset.listed(NAMES, path).tolist() == [53]
    path.write_text("n00000001_4.JPEG\n")
    with pytest.raises(UserError, match="SHA-256"):
        subset.public_list("imagenet-1pct", tmp_path / "lists")
    with pytest.raises(UserError, match="by other means"):
        subset.public_list("imagenet-1pct", tmp_path / "elsewhere")
