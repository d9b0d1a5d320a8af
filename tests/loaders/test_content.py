"""A dataset is known by what it holds: the same images anywhere are the same, others under the same names are not."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from loaders import content
from loaders.beton.convert import convert
from loaders.beton.encoding import Storage
from loaders.content import content_digest, digest_of
from loaders.datasets.catalogue import open_dataset
from loaders.datasets.folder import class_tree
from loaders.errors import UserError
from loaders.sources import open_images
from tests.helpers.public_layouts import write_cifar10


def test_the_same_images_are_the_same_wherever_they_lie(image_folder, image_beton, tmp_path):
    moved = shutil.copytree(image_folder, tmp_path / "moved")
    os.utime(moved / "class0" / "000.jpg", (0, 0))  # a copy need not keep times
    known = {content_digest(open_images(path)) for path in (image_folder, moved, image_beton)}
    assert len(known) == 1 and len(known.pop()) == 64


def test_pixels_are_the_same_in_their_public_files_and_in_a_file_written_from_them(tmp_path):
    write_cifar10(tmp_path)
    convert(open_dataset("cifar10", tmp_path)["train"], tmp_path / "cifar10_train.beton")
    public, written = open_images(f"cifar10:train@{tmp_path}"), open_images(tmp_path / "cifar10_train.beton")
    assert content_digest(public) == content_digest(written)


def test_the_digest_is_of_sizes_and_bytes_in_order(image_folder):
    images = open_images(image_folder)
    files = [(image_folder / name).read_bytes() for name in images.names]
    expected = hashlib.blake2b(np.array([len(file) for file in files], "<i8").tobytes(), digest_size=32)
    expected.update(b"".join(files))
    assert content_digest(images) == expected.hexdigest()


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path):
    other = path.with_name("010.jpg")
    data = path.read_bytes(), other.read_bytes()
    other.write_bytes(data[0]), path.write_bytes(data[1])


@pytest.mark.parametrize("change", [flip_a_byte, swap, lambda path: os.truncate(path, 100), lambda path: path.unlink()])
def test_other_content_is_another_dataset(image_folder, tmp_path, change):
    copy = shutil.copytree(image_folder, tmp_path / "copy")
    images = open_images(copy)
    before = content_digest(images)
    change(copy / "class1" / "007.jpg")
    assert content_digest(images) != before  # also of a dataset that is open, whose file is gone


def test_a_file_written_anew_with_other_options_is_another_dataset(image_folder, tmp_path):
    path, known = tmp_path / "images.beton", set()
    for storage in (Storage(), Storage(longest_side=32), Storage(longest_side=32, quality=50), Storage(raw=True)):
        path.unlink(missing_ok=True)
        convert(class_tree(image_folder), path, storage)
        known.add(content_digest(open_images(path)))
    assert len(known) == 4


def test_pixels_of_another_shape_are_others(tmp_path):
    known = set()
    for size in ((6, 4), (4, 6)):
        place = tmp_path / str(size)
        (place / "a").mkdir(parents=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(place / "a" / "0.png")
        convert(class_tree(place), place / "raw.beton", Storage(raw=True))
        known.add(content_digest(open_images(place / "raw.beton")))
    assert len(known) == 2


def test_of_many_images_a_thousand_are_read_and_all_are_measured(monkeypatch):
    monkeypatch.setattr(content, "_WHOLE_COUNT", 10)
    sizes, read = np.arange(5000) % 7, []
    digest_of(sizes, lambda i: read.append(i) or b"")
    assert len(read) == 1000 and {0, 4999} <= set(read) and np.diff(sorted(read)).max() <= 6
    other = sizes.copy()
    other[1] += 1  # none of the thousand
    assert 1 not in read and digest_of(other, lambda i: b"") != digest_of(sizes, lambda i: b"")


def test_an_image_written_over_in_place_is_not_taken_for_the_one_converted(image_folder, tmp_path):
    copy = shutil.copytree(image_folder, tmp_path / "copy")
    target = tmp_path / "images.beton"
    convert(class_tree(copy), target)
    assert convert(class_tree(copy), target).finished_before
    times = os.stat(copy / "class1")
    swap(copy / "class1" / "007.jpg")  # the folder's own time stays
    assert os.stat(copy / "class1").st_mtime_ns == times.st_mtime_ns
    with pytest.raises(UserError, match="written from other images or options"):
        convert(class_tree(copy), target)
