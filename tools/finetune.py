"""Fine-tunes a backbone on few labels and tests it.

    python tools/finetune.py runs/mine --percent 1
    python tools/finetune.py backbone.pt --subset imagenet-1pct --train data/imagenet_train.beton --val …
    torchrun --nproc-per-node 8 tools/finetune.py … --subset list.txt --lr-backbone 0.005 --lr-classifier 0.5
    python tools/finetune.py backbone.pt --percent 10 --train … --val …
    python tools/finetune.py backbone.pt --rcfg rcfgs/eval/semi_1pct_two_crop.yaml --train … --val …
    python tools/finetune.py --from-scratch --arch resnet50 --percent 10 --train … --val …

Images and view are the run's where nothing else is said.

The labels: --subset takes the public list of 1 % or 10 % of ImageNet (imagenet-1pct, imagenet-10pct; fetched once
and checked) or a file of your own, one image name a line; --percent draws the same share of every class.

The defaults are INTL's for models of several crops; for those of two crops --lr-backbone 0.006. The rates are constant;
--schedule cosine is Barlow Twins'. --from-scratch trains a new network the same way, all of it at the classifier's
rate, for comparison.

The same command again resumes it, also after a kill and with another number of GPUs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import command_line  # noqa: E402
from fastintl.evaluate.command_line import number  # noqa: E402
from loaders.errors import UserError, exit_on_user_error  # noqa: E402
from loaders.startup import late_imports  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", help="file of weights, run folder or URL")
    parser.add_argument("--from-scratch", action="store_true", help="a new network instead of weights")
    labels = parser.add_mutually_exclusive_group(required=True)
    share = number("--percent", float, above=0, most=100)
    labels.add_argument("--percent", type=share, help="of every class, drawn by --seed")
    labels.add_argument("--subset", metavar="FILE", help="imagenet-1pct, imagenet-10pct, or a file of image names")
    command_line.add_supervision(parser)
    protocol = parser.add_argument_group("protocol")
    protocol.add_argument("--frozen", action="store_true", help="only the classifier learns")
    protocol.add_argument("--epochs", type=number("--epochs", least=1), default=20, help="default: 20")
    count, decay = number("--batch-size", least=1), number("--weight-decay", float, least=0)
    backbone, classifier = (number(option, float, above=0) for option in ("--lr-backbone", "--lr-classifier"))
    protocol.add_argument("--batch-size", type=count, default=256, help="over all ranks (default: 256)")
    protocol.add_argument("--lr-backbone", type=backbone, help="for 256 images a step (default: 0.004)")
    protocol.add_argument("--lr-classifier", type=classifier, default=0.2, help="likewise (default: 0.2)")
    protocol.add_argument("--weight-decay", type=decay, default=0.0, help="default: 0")
    protocol.add_argument("--schedule", default="constant", choices=("constant", "cosine", "steps", "exponential"))
    command_line.add_resumable_training(parser, "runs/finetune-…")
    return command_line.parse_with_recipe(parser, words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    given = parse_arguments(words)
    if (given.weights is None) != given.from_scratch:
        raise UserError("give a file of weights, or --from-scratch, and not both")
    if given.from_scratch and given.frozen:
        raise UserError("--frozen keeps a backbone that has learnt something, and --from-scratch has none: drop one")

    with late_imports(crops_on=given.device):
        from fastintl import distributed
        from fastintl.evaluate import results
        from fastintl.evaluate.backbone import Reading, images_for, new_backbone, open_backbone
        from fastintl.evaluate.finetune import FineTuneProtocol, finetune
        from fastintl.evaluate.supervised import SupervisedTraining

    lr_backbone = given.lr_backbone
    if lr_backbone is None:
        lr_backbone = given.lr_classifier if given.from_scratch else FineTuneProtocol.lr_backbone
    rates = lr_backbone, given.lr_classifier, given.weight_decay
    protocol = FineTuneProtocol(given.epochs, given.batch_size, *rates, schedule=given.schedule, frozen=given.frozen)
    with distributed.start(given.device) as world:
        if given.from_scratch:
            backbone = new_backbone(given.arch, given.stem, given.seed, given.resize, given.size)
        else:
            backbone = open_backbone(given.weights, given.arch, given.stem, given.target, given.resize, given.size)
        reading = Reading(given.source, threads=given.threads)
        train, val = images_for(backbone, given.train, given.val)
        images, crops = (train, val, reading), (given.crop_area, given.crop_interpolation)
        kept = given.out, given.save_minutes, given.eval_every
        training = SupervisedTraining(*images, given.precision, given.seed, *crops, *kept)
        result = finetune(backbone, protocol, training, given.percent, given.subset, world)
        if world.is_main:
            results.write(result, given.json, given.results)
            results.print_table(result)


if __name__ == "__main__":
    main()
