"""What an augmentation refuses before any image is read."""

import pytest

from loaders import CenterCrop, CropSpec, UserError


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: CropSpec(0), "at least 1 pixel"),
        (lambda: CropSpec(1 << 70), "too large: at most 16,384 px"),
        (lambda: CropSpec(32, scale=(0.5, 0.2)), "scale must be two positive numbers, smaller first"),
        (lambda: CropSpec(32, blur=1.5), "blur is a probability"),
        (lambda: CropSpec(32, hue=0.6), "hue must lie between 0 and 0.5"),
        (lambda: CenterCrop(24, 32), "centre crop of 32 px does not fit a shorter side of 24 px"),
        (lambda: CenterCrop(1 << 70, 32), "too large: at most 16,384 px"),
        (lambda: CenterCrop(32, 32, interpolation="nearest"), "no interpolation is named 'nearest'"),
    ],
)
def test_each_mistake_is_a_sentence(made, words):
    with pytest.raises(UserError, match=words):
        made()


def test_the_largest_side_is_taken():
    assert CenterCrop(1 << 14, 1 << 14).size == CropSpec(1 << 14).size == 16_384
