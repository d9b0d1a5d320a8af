"""The labels of a supervised evaluation: training and held-out images of the same classes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from loaders.errors import UserError
from loaders.sources import Images

# How images come by labels, for sentences that miss them.
LABELLED = "give folders named after their classes, with no image beside them, or shards with .cls files"

_MOST_CLASSES = 1 << 20  # of images without class names; a classifier of more would not fit the memory


def count_classes(train: Images, held_out: Images) -> int:
    """The number of classes of both sets.

    A file without class names has as many classes as its labels need.

    Raises:
        UserError: the two have different classes, images without a label, or labels beyond the classes.
    """
    require_same_classes(train, held_out)
    classes = len(train.classes or held_out.classes or ()) or classes_of(train.labels, str(train.path))
    for images in (train, held_out):
        check_labels(images.labels, classes, str(images.path))
    return classes


def classes_of(labels: np.ndarray | Tensor, where: str) -> int:
    """The number of classes that labels without names, (n,) integers, need.

    Args:
        where: the images that have the labels, for the sentence.

    Raises:
        UserError: there are more than a million, so the labels are no class indices but some other numbers.
    """
    largest = int(labels.max()) if len(labels) else -1
    if largest >= _MOST_CLASSES:
        raise UserError(f"{where} holds the label {largest:,}; classes are counted from 0 on: number them anew")
    return largest + 1


def require_same_classes(train: Images, held_out: Images) -> None:
    """Raises ``UserError`` where both sets name their classes, and not the same."""
    if train.classes and held_out.classes and list(train.classes) != list(held_out.classes):
        alone = sorted(set(train.classes) ^ set(held_out.classes))
        why = f"only one of them has {alone[0]}" if alone else "their order differs"
        raise UserError(f"{train.path} and {held_out.path} do not have the same classes: {why}")


def check_labels(labels: np.ndarray | Tensor, classes: int, where: str) -> None:
    """Refuses labels, (n,) integers, that are not all among ``0 .. classes - 1``.

    Args:
        where: the images that have the labels, for the sentence.
    """
    if len(labels) == 0:
        raise UserError(f"{where} holds nothing to learn from or to be tested on")
    if int(labels.min()) < 0:
        raise UserError(f"{where} holds images without a label, and a classifier needs one of each: {LABELLED}")
    if int(labels.max()) >= classes:
        raise UserError(f"{where} holds the label {int(labels.max())}, but there are only {classes} classes, from 0 on")
