"""From the configuration to annotated images."""

from __future__ import annotations

from pathlib import Path

from fastintl.detection import voc
from fastintl.detection.annotations import AnnotatedSet, joined, require_same_classes, with_objects
from fastintl.detection.config import DetectionConfig
from loaders.errors import UserError


def read_sets(config: DetectionConfig) -> tuple[AnnotatedSet, AnnotatedSet]:
    """The images with objects to learn from, and all images to test on.

    Raises:
        UserError: something is missing or damaged, or the two do not have the same classes.
    """
    if config.data.root is None:
        raise UserError("no images given: set data.root (--root of the tool) to the folder of the dataset")
    if not config.data.train:
        raise UserError("data.train: [] names no split; give one or more")
    train = joined([_read(config, split) for split in config.data.train])
    test = _read(config, config.data.test)
    require_same_classes(train, test)
    if not any(len(image.boxes) for image in test.images):
        raise UserError(f"{test.path} lists images without a single object to find")
    return with_objects(train), test


def _read(config: DetectionConfig, split: str) -> AnnotatedSet:
    root = Path(config.data.root)
    if config.data.layout == "voc":
        return voc.read_voc(root, split, config.data.classes or voc.CLASSES)
    from fastintl.detection.coco import read_coco  # needs pycocotools

    return read_coco(root, split, config.model.masks)
