"""The demo's images: the same from one seed, and of a class that pixel values do not give away."""

from __future__ import annotations

import numpy as np
import pytest

from loaders.datasets.demo import CLASSES, PATTERNS, SIDE, demo_splits, draw_image


def drawn(part: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    split = demo_splits(seed)[part]
    return np.stack([split.load(i) for i in range(count)]), split.labels[:count]


@pytest.fixture(scope="module")
def images():
    return *drawn("train", 1800), *drawn("val", 600)


def test_sizes_and_classes():
    splits = demo_splits()
    assert len(CLASSES) == len(set(CLASSES)) == 12 and list(CLASSES) == sorted(CLASSES)
    for part, count in (("train", 4800), ("val", 1200)):
        split = splits[part]
        assert len(split) == len(set(split.names)) == count and split.classes == list(CLASSES)
        assert (np.bincount(split.labels) == count // 12).all()
        assert all(CLASSES[label] in name for name, label in zip(split.names, split.labels, strict=True))
    image = splits["val"].load(0)
    assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8


def test_images_are_a_function_of_seed_part_and_index():
    first, _ = drawn("train", 24)
    again = demo_splits(0)["train"]
    assert all(np.array_equal(again.load(i), first[i]) for i in reversed(range(24)))
    others = [drawn("train", 24, seed=1)[0], drawn("val", 24)[0]]
    flat = np.concatenate([first, *others]).reshape(72, -1)
    assert len(np.unique(flat, axis=0)) == 72
    assert demo_splits(0)["train"].fingerprint != demo_splits(1)["train"].fingerprint


def test_files_written_by_older_versions_are_of_the_same_images():
    split = demo_splits(0)["train"]
    assert split.fingerprint == "d0a44d9b71888e2c21b2b3d2afd2507a82d9dec7580b5c996c29ce4254c2396a"
    means = [split.load(i).mean((0, 1)) for i in (0, 3, 6, 9)]
    expected = [[68.9, 65.4, 64.6], [76.5, 98.2, 81.5], [70.8, 79.9, 72.1], [126.2, 126.8, 91.2]]
    assert np.allclose(means, expected, atol=0.2)  # what the fingerprint stands for


def test_pixels_do_not_give_the_class_away(images):
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, train_labels, val, val_labels = images

    def accuracy(features) -> float:
        model = neighbors.KNeighborsClassifier(5).fit(features(train), train_labels)
        return model.score(features(val), val_labels)

    assert accuracy(lambda x: x.reshape(len(x), -1).astype(np.float32)) < 0.16
    # Nor do thumbnails or the mean colour.
    assert accuracy(lambda x: x.reshape(len(x), 8, 8, 8, 8, 3).mean((2, 4)).reshape(len(x), -1)) < 0.16
    assert accuracy(lambda x: x.reshape(len(x), -1, 3).mean(1)) < 0.16


def test_brightness_and_contrast_are_alike_in_all_classes(images):
    train, labels, _, _ = images
    grey = train.mean(axis=3)
    means = np.array([grey[labels == label].mean() for label in range(12)])
    spreads = np.array([grey[labels == label].std(axis=(1, 2)).mean() for label in range(12)])
    assert np.ptp(means) < 25 and 60 < means.mean() < 190
    assert spreads.min() > 25 and spreads.max() < 1.6 * spreads.min()


@pytest.mark.parametrize("name", CLASSES)
def test_every_crop_shows_the_pattern(name):
    """No sixteenth of an image is flat: the grey values of each vary more than its noise does."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        grey = draw_image(CLASSES.index(name), rng).astype(float).mean(axis=2)
        quarters = grey.reshape(4, SIDE // 4, 4, SIDE // 4).std(axis=(1, 3))
        assert np.median(quarters) > 12 and quarters.min() > 2


@pytest.mark.parametrize("name", CLASSES)
def test_patterns_are_distances_in_periods(name):
    """Ink edges are equally sharp at any size: no pattern's distance grows faster than the way walked."""
    v, u = np.mgrid[0:8:400j, 0:8:400j].astype(np.float32)
    distance = PATTERNS[name](u, v, np.zeros_like(u))
    slope = np.hypot(*np.gradient(distance, 8 / 399))
    inside = np.abs(distance) < 0.05
    assert 0.7 < np.median(slope[inside]) < 1.3
    share = (distance > 0).mean()
    assert 0.15 < share < 0.6
