"""The images with objects that a configuration names: to learn from, and to test on."""

from __future__ import annotations

from pathlib import Path

from fastintl.detection.annotations import AnnotatedSet, joined, require_same_classes, with_objects
from fastintl.detection.coco import read_coco
from fastintl.detection.config import DetectionConfig
from fastintl.detection.voc import VOC_CLASSES, read_voc
from loaders.errors import UserError

__all__ = ["VOC_CLASSES", "read_coco", "read_sets", "read_voc"]


def read_sets(config: DetectionConfig, shown: bool = False) -> tuple[AnnotatedSet, AnnotatedSet]:
    """The images with objects to learn from, and all images to test on, checked.

    Args:
        shown: whether the progress is shown.

    Raises:
        UserError: something is missing or damaged, or the two do not have the same classes.
    """
    if config.data.root is None:
        raise UserError("no images given: set data.root (--root of the tool) to the folder of the dataset")
    if not config.data.train:
        raise UserError("data.train: [] names no split; give one or more")
    train = joined([_read(config, split, shown) for split in config.data.train])
    test = _read(config, config.data.test, shown)
    require_same_classes(train, test)
    if not any((~image.difficult).any() for image in test.images):
        raise UserError(f"{test.path} lists images without a single object to find")
    return with_objects(train), test


def _read(config: DetectionConfig, split: str, shown: bool) -> AnnotatedSet:
    root = Path(config.data.root)
    if config.data.layout == "voc":
        return read_voc(root, split, config.data.classes or VOC_CLASSES, shown)
    return read_coco(root, split, config.model.masks, shown)
