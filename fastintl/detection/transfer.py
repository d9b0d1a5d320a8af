"""The transfer of a backbone: a detector is trained on it and tested, and the result is written down."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from fastintl.config.options import values
from fastintl.detection.config import DetectionConfig
from fastintl.detection.datasets import read_sets
from fastintl.detection.drawing import draw_detections
from fastintl.detection.training import DetectionTraining
from fastintl.distributed import World
from fastintl.evaluate.backbone import EvaluatedBackbone
from fastintl.evaluate.results import Result, print_rows, write
from fastintl.network import lockstep
from loaders.errors import UserError

_NUMBERS = ("AP", "AP50", "AP75")


def transfer(
    config: DetectionConfig,
    backbone: EvaluatedBackbone,
    world: World,
    json: Path | None = None,
    results: Path | None = None,
    picture: Path | None = None,
) -> None:
    """Trains a detector, from its last checkpoint where there is one, tests it, and prints the result.

    Args:
        backbone: a ResNet; others have no last stage that could look at regions.
        json, results: where the result goes beside the screen, see ``results.write``.
        picture: file of an image of some detections.
    """
    if not lockstep.can_run(backbone.network):
        raise UserError(f"a detector is made of a ResNet of torchvision's, and not of {backbone.network.arch}")
    train, test = read_sets(config, shown=world.is_main)
    with closing(DetectionTraining(config, backbone.network, backbone.origin, train, test, world)) as training:
        metrics, detections = training.fit()
    if not world.is_main:
        return
    task = "instance segmentation" if config.model.masks else "object detection"
    data = {"root": config.data.root, "train": " + ".join(config.data.train), "test": config.data.test}
    groups = ("seed", "views", "model", "optim", "eval")
    settings = {key: value for key, value in values(config).items() if key.partition(".")[0] in groups}
    settings |= {"train.batch_size": config.train.batch_size, **backbone.origin}
    write(Result(task, data, backbone.path, settings, metrics), json, results)
    kinds = dict.fromkeys(name.split()[0] for name in metrics)
    rows = [(kind, *(f"{metrics[f'{kind} {number}']:.1%}" for number in _NUMBERS)) for kind in kinds]
    print_rows(("", *_NUMBERS), rows)
    print(f"{len(test):,} images; results in {config.folder}")
    if picture:
        draw_detections(test, detections, picture)
