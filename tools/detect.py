"""Trains a detector on a backbone and tests it: Faster R-CNN on VOC 07+12, Mask R-CNN on COCO 2017, as MoCo did.

    torchrun --nproc-per-node 8 tools/detect.py --data voc --root VOCdevkit --backbone runs/ep200
    torchrun --nproc-per-node 8 tools/detect.py --data coco --root coco --backbone runs/ep200 name=coco-ep200
    python tools/detect.py --rcfg mine.yaml --backbone runs/demo data.root=shapes optim.steps=400

--data takes rcfgs/detection/voc0712.yaml or coco_2x.yaml, --rcfg any other recipe; key=value words change its keys.
The files lie as in the public archives: VOC2007/ and VOC2012/ (or VOCdevkit/ with them), or annotations/, train2017/
and val2017/.

The run's folder gets detector.pt and detections.json (COCO's format of results). The same command again resumes the
training, also after a kill or a signal (exit status 75).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.config.options import KeyHelp, dump, help_text  # noqa: E402
from fastintl.detection.config import DetectionConfig, load  # noqa: E402
from fastintl.evaluate import command_line  # noqa: E402
from loaders.errors import UserError, exit_on_user_error, require_writable  # noqa: E402
from loaders.startup import late_imports  # noqa: E402

_RECIPE_OF = {"voc": "detection/voc0712", "coco": "detection/coco_2x"}


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="keys:\n" + help_text(DetectionConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=KeyHelp, cls=DetectionConfig)
    recipe = parser.add_mutually_exclusive_group(required=True)
    recipe.add_argument("--data", choices=tuple(_RECIPE_OF), help="the published recipe of this dataset")
    recipe.add_argument("--rcfg", metavar="RECIPE", help="another recipe, a file or a name")
    parser.add_argument("--root", metavar="FOLDER", help="of the dataset, as data.root")
    parser.add_argument("--backbone", metavar="FILE", help="file of weights, run folder or URL")
    parser.add_argument("--from-scratch", action="store_true", help="a new backbone instead, for comparison")
    command_line.add_network(parser)
    command_line.add_results(parser)
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw what is found in some images (.png)")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
    given = parser.parse_intermixed_args(words)
    require_writable(given.json, given.results, given.picture)
    root = [f"data.root={given.root}"] if given.root else []
    config = load(given.rcfg or _RECIPE_OF[given.data], [*root, *given.overrides])
    if given.print_config:
        sys.stdout.write(dump(config))
        return
    if (given.backbone is None) != given.from_scratch:
        raise UserError("give --backbone FILE, or --from-scratch, and not both")

    with late_imports():
        from fastintl import distributed  # late: --help and --print-config need no torch
        from fastintl.detection.transfer import transfer
        from fastintl.evaluate.backbone import new_backbone, open_backbone

    with distributed.start(config.train.device) as world:
        if given.from_scratch:
            backbone = new_backbone(given.arch, given.stem, config.seed)
        else:
            backbone = open_backbone(given.backbone, given.arch, given.stem, given.target)
        transfer(config, backbone, world, given.json, given.results, given.picture)


if __name__ == "__main__":
    main()
