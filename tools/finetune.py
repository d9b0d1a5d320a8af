"""Fine-tunes a backbone on few labels and tests it.

    python tools/finetune.py backbone.pt --subset imagenet-1pct --train data/imagenet_train.beton --val …
    torchrun --nproc-per-node 8 tools/finetune.py … --subset list.txt --lr-backbone 0.005 --lr-classifier 0.5
    python tools/finetune.py backbone.pt --percent 10 --train … --val …
    python tools/finetune.py backbone.pt --rcfg rcfgs/eval/semi_1pct_two_crop.yaml --train … --val …
    python tools/finetune.py --from-scratch --arch resnet50 --percent 10 --train … --val …

The labels: --subset takes the public list of 1 % or 10 % of ImageNet (imagenet-1pct, imagenet-10pct; fetched once
and checked) or a file of your own, one image name a line; --percent draws the same share of every class.

The defaults are INTL's for models of several crops; for those of two crops --lr-backbone 0.006. The rates stay as they
are; --schedule cosine is Barlow Twins'. --from-scratch trains a new network the same way, all of it at the classifier's
rate, for comparison.

The same command again goes on where it was, also after a kill and with another number of GPUs.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import command_line as command  # noqa: E402
from fastintl.evaluate.arguments import parse_with_recipe  # noqa: E402
from loaders.errors import UserError, exit_on_user_error  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", help="file of weights, run folder or URL")
    parser.add_argument("--from-scratch", action="store_true", help="a new network instead of weights")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--percent", type=float, help="of every class, drawn by --seed")
    labels.add_argument("--subset", metavar="FILE", help="imagenet-1pct, imagenet-10pct, or a file of image names")
    command.add_options(parser)
    protocol = parser.add_argument_group("protocol")
    protocol.add_argument("--frozen", action="store_true", help="only the classifier learns")
    protocol.add_argument("--epochs", type=int, default=20, help="default: 20")
    protocol.add_argument("--batch-size", type=int, default=256, help="over all ranks (default: 256)")
    protocol.add_argument("--lr-backbone", type=float, help="for 256 images a step (default: 0.004)")
    protocol.add_argument("--lr-classifier", type=float, default=0.2, help="likewise (default: 0.2)")
    protocol.add_argument("--weight-decay", type=float, default=0.0, help="default: 0")
    protocol.add_argument("--schedule", default="constant", choices=("constant", "cosine", "steps", "exponential"))
    command.add_random_crops(protocol)
    parser.add_argument("--out", type=Path, help="folder of state and weights (default: runs/finetune-…)")
    parser.add_argument("--save-minutes", type=float, default=10, help="save this often within an epoch (default: 10)")
    parser.add_argument("--eval-every", type=int, default=0, help="test every so many epochs (default: 0, at the end)")
    return parse_with_recipe(parser, words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    if (arguments.weights is None) != arguments.from_scratch:
        raise UserError("give a file of weights, or --from-scratch, and not both")
    if arguments.epochs < 1 or arguments.batch_size < 1:
        raise UserError("--epochs and --batch-size must be positive")
    if arguments.from_scratch and arguments.frozen:
        raise UserError("--frozen keeps a backbone that has learnt something, and --from-scratch has none: drop one")

    from fastintl import distributed

    with distributed.start(arguments.device) as world:
        _finetune(arguments, world)


def _finetune(arguments: argparse.Namespace, world) -> None:
    from dataclasses import asdict

    from fastintl.evaluate.backbone import describe_view
    from fastintl.evaluate.epoch_loop import EpochLoop
    from fastintl.evaluate.finetune import FineTuning
    from fastintl.evaluate.labels import count_classes
    from fastintl.network.precision import autocast_dtype
    from fastintl.runs.checkpoint import write_atomically
    from loaders import CenterCrop
    from loaders.sources import open_images

    dtype = autocast_dtype(arguments.precision, world.device)
    subject, protocol = None if arguments.from_scratch else command.open_subject(arguments), _protocol(arguments)
    backbone = subject.network if subject else _new_backbone(arguments)
    crop = subject.crop if subject else CenterCrop(arguments.resize or 256, arguments.size or 224)
    samples = _samples(arguments, world, open_images(arguments.train))
    crops = command.random_crops(arguments, crop)
    train = command.open_loader(arguments, world, arguments.train, crops, dtype, protocol.batch_size, samples)
    held_out = command.open_loader(arguments, world, arguments.val, crop, dtype)
    classes = count_classes(train.images, held_out.images)
    tuning = FineTuning(backbone, classes, protocol, world, arguments.seed, dtype)
    start = {"labels": len(samples), "subset": arguments.subset or f"{arguments.percent:g} %"}
    if arguments.from_scratch:
        start |= {"from_scratch": True, "arch": backbone.arch, "stem": backbone.stem, **describe_view(crop)}
    settings = command.settings_of(
        arguments, subject, {**asdict(protocol), **command.describe_crops(arguments), **start}
    )
    identity = command.identity_of(settings, train, samples)
    folder = arguments.out or command.run_folder("finetune", identity)
    loop = EpochLoop(tuning, train, protocol.epochs, world, folder, identity, arguments.save_minutes, "training")
    command.say(world, f"{len(samples):,} of {len(train.images):,} labels, state in {folder}")

    def end_of_epoch(epochs: int) -> None:
        if arguments.eval_every and epochs % arguments.eval_every == 0 and epochs < protocol.epochs:
            found = tuning.accuracy(held_out)
            command.say(world, f"epoch {epochs}  top-1 {found['top1']:.2%}")

    with closing(train), closing(held_out):
        loop.fit(end_of_epoch)
        metrics = tuning.accuracy(held_out)
    if world.is_main:
        write_atomically(tuning.network.state_dict(), folder / "finetuned.pt")
        task = "training from scratch" if arguments.from_scratch else "fine-tuning"
        command.report(arguments, task, settings, metrics)


def _new_backbone(arguments: argparse.Namespace):
    import torch

    from fastintl.network.model import build_backbone

    torch.manual_seed(arguments.seed)
    return build_backbone(arguments.arch or "resnet50", arguments.stem or "imagenet")


def _protocol(arguments: argparse.Namespace):
    from fastintl.evaluate.finetune import FineTuneProtocol

    lr_backbone = arguments.lr_backbone
    if lr_backbone is None:
        lr_backbone = arguments.lr_classifier if arguments.from_scratch else FineTuneProtocol.lr_backbone
    return FineTuneProtocol(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr_backbone=lr_backbone,
        lr_classifier=arguments.lr_classifier,
        weight_decay=arguments.weight_decay,
        schedule=arguments.schedule,
        frozen=arguments.frozen,
    )


def _samples(arguments: argparse.Namespace, world, images):
    """Ids of the images whose labels are used."""
    from fastintl.evaluate import subset

    if arguments.percent is not None:
        return subset.balanced(images.labels, arguments.percent, arguments.seed)
    if arguments.subset not in subset.PUBLIC_LISTS:
        return subset.listed(images.names, Path(arguments.subset))
    folder = Path("data") / "lists"
    if world.is_main:
        subset.public_list(arguments.subset, folder)
    world.barrier()
    return subset.listed(images.names, subset.public_list(arguments.subset, folder))


if __name__ == "__main__":
    main()
