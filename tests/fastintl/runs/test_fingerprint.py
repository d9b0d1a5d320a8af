"""The same images are known again wherever they lie and whatever reads them; others are not taken for them."""

import os
import shutil

import numpy as np
import pytest

from fastintl.runs.fingerprint import description, difference, fingerprint
from loaders.beton.convert import convert
from loaders.datasets.catalogue import open_dataset
from loaders.sources import open_images
from tests.helpers.public_layouts import write_cifar10


def test_a_moved_folder_and_its_file_are_the_same_images(image_folder, image_beton, tmp_path):
    moved = shutil.copytree(image_folder, tmp_path / "moved")
    folder, *others = (open_images(path) for path in (image_folder, moved, image_beton))
    for other in others:
        assert difference(description(folder), description(other)) is None
        assert fingerprint(folder) == fingerprint(other)


def test_public_files_and_what_was_written_from_them_are_the_same_images(tmp_path):
    write_cifar10(tmp_path)
    convert(open_dataset("cifar10", tmp_path)["train"], tmp_path / "cifar10_train.beton")
    public, written = open_images(f"cifar10:train@{tmp_path}"), open_images(tmp_path / "cifar10_train.beton")
    assert description(public) == description(written) and fingerprint(public) == fingerprint(written)


def test_a_file_without_names_is_compared_by_its_labels(image_folder, image_beton, tmp_path):
    data = image_beton.read_bytes()
    (tmp_path / "theirs.beton").write_bytes(data.replace(b"fastintl", bytes(8), 1))  # as FFCV's own writer leaves it
    theirs, folder = (description(open_images(path)) for path in (tmp_path / "theirs.beton", image_folder))
    assert theirs["names"] is None and folder["names"]
    assert difference(theirs, folder) is difference(folder, theirs) is None
    (image,) = image_folder.glob("*/007.jpg")
    sorted_anew = shutil.copytree(image_folder, tmp_path / "sorted_anew")
    (sorted_anew / image.relative_to(image_folder)).rename(sorted_anew / "class0" / image.name)
    assert difference(theirs, description(open_images(sorted_anew))) == "images with other labels"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "60 images, and these are 59"),
        (lambda path: path.rename(path.with_name("other.jpg")), "images of other names"),
        (lambda path: path.rename(path.parents[1] / "class0" / path.name), "images with other labels"),
    ],
)
def test_other_images_are_told_apart(image_folder, tmp_path, change, says):
    changed = shutil.copytree(image_folder, tmp_path / "changed")
    change(changed / "class1" / "007.jpg")
    first, second = open_images(image_folder), open_images(changed)
    assert difference(description(first), description(second)) == says
    assert fingerprint(first) != fingerprint(second)


def test_the_choice_of_samples_counts_and_names_need_not_be_text(image_folder, tmp_path):
    copy = os.fsencode(shutil.copytree(image_folder, tmp_path / "copy"))
    os.rename(copy + b"/class1/007.jpg", copy + b"/class1/\xff.jpg")
    images = open_images(tmp_path / "copy")
    assert len({fingerprint(images), fingerprint(images, [0, 1]), fingerprint(images, np.array([1, 0]))}) == 3
    assert description(images)["names"] != description(open_images(image_folder))["names"]
