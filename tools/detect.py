"""Trains a detector on a backbone and tests it: Faster R-CNN on VOC 07+12, Mask R-CNN on COCO 2017, as MoCo did.

    torchrun --nproc-per-node 8 tools/detect.py --data voc --root VOCdevkit --backbone runs/ep200
    torchrun --nproc-per-node 8 tools/detect.py --data coco --root coco --backbone runs/ep200 name=coco-ep200
    python tools/detect.py --rcfg mine.yaml --backbone runs/demo data.root=shapes optim.steps=400

--data takes rcfgs/detection/voc0712.yaml or coco_2x.yaml, --rcfg any other recipe; key=value words change its keys.
The files lie as in the public archives: VOC2007/ and VOC2012/ (or VOCdevkit/ with them), or annotations/, train2017/
and val2017/.

The run's folder gets detector.pt and detections.json (COCO's format of results). The same command again goes on where
it was, also after a kill; so does a job that a signal stopped (exit status 75).
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.config import options as configfile  # noqa: E402
from fastintl.detection import config as configuration  # noqa: E402
from fastintl.evaluate import command_line as options  # noqa: E402
from loaders.errors import UserError, exit_on_user_error  # noqa: E402

_RECIPES = Path(__file__).resolve().parent.parent / "rcfgs" / "detection"
_RECIPE_OF = {"voc": _RECIPES / "voc0712.yaml", "coco": _RECIPES / "coco_2x.yaml"}


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="keys:\n" + configfile.help_text(configuration.DetectionConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipe = parser.add_mutually_exclusive_group(required=True)
    recipe.add_argument("--data", choices=tuple(_RECIPE_OF), help="the published recipe of this dataset")
    recipe.add_argument("--rcfg", type=Path, metavar="FILE", help="another recipe")
    parser.add_argument("--root", metavar="FOLDER", help="of the dataset, as data.root")
    parser.add_argument("--backbone", metavar="FILE", help="file of weights, run folder or URL")
    parser.add_argument("--from-scratch", action="store_true", help="a new backbone instead, for comparison")
    options.add_network(parser)
    options.add_results(parser)
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw what is found in some images (.png)")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
    given = parser.parse_intermixed_args(words)
    root = [f"data.root={given.root}"] if given.root else []
    config = configuration.load(given.rcfg or _RECIPE_OF[given.data], [*root, *given.overrides])
    if given.print_config:
        sys.stdout.write(configfile.dump(config))
        return
    if (given.backbone is None) != given.from_scratch:
        raise UserError("give --backbone FILE, or --from-scratch, and not both")

    from fastintl import distributed  # late: --help and --print-config need no torch

    with distributed.start(config.train.device) as world:
        _detect(given, config, world)


def _detect(given: argparse.Namespace, config: configuration.DetectionConfig, world) -> None:
    from fastintl.detection.average_precision import print_table
    from fastintl.detection.drawing import draw_detections
    from fastintl.detection.sets import read_sets
    from fastintl.detection.training import DetectionTraining

    backbone, origin = _backbone(given, config)
    train, test = read_sets(config)
    with closing(DetectionTraining(config, backbone, origin, train, test, world)) as training:
        metrics, detections = training.fit()
    if not world.is_main:
        return
    print_table(metrics, len(test), config.folder)
    _write_results(given, config, origin, metrics)
    if given.picture:
        draw_detections(test, detections, given.picture)


def _backbone(given: argparse.Namespace, config: configuration.DetectionConfig):
    """The backbone, and what it is in plain values."""
    if given.from_scratch:
        import torch

        from fastintl.network.model import build_backbone

        torch.manual_seed(config.seed)
        backbone = build_backbone(given.arch or "resnet50", given.stem or "imagenet")
        return backbone, {"arch": backbone.arch, "stem": backbone.stem, "from_scratch": True}

    from fastintl.weights.backbone import backbone_of
    from fastintl.weights.files import read_weights, sha256

    file = read_weights(given.backbone)
    backbone = backbone_of(file, given.arch, given.stem, given.target)
    origin = {"arch": backbone.arch, "stem": backbone.stem, "target": given.target, "sha256": sha256(file.path)}
    return backbone, origin


def _write_results(given: argparse.Namespace, config: configuration.DetectionConfig, origin: dict, metrics: dict):
    from fastintl.evaluate import results

    task = "instance segmentation" if config.model.masks else "object detection"
    data = {"root": config.data.root, "train": " + ".join(config.data.train), "test": config.data.test}
    keys = configfile.values(config)
    settings = {key: keys[key] for key in keys if key.partition(".")[0] in ("seed", "views", "model", "optim", "eval")}
    settings |= {"train.batch_size": config.train.batch_size}
    settings |= origin
    result = results.Result(task, data, given.backbone, settings, metrics)
    results.write(result, given.json, given.results)


if __name__ == "__main__":
    main()
