"""Tests a backbone by a linear classifier on its frozen features.

    python tools/linear.py backbone.pt --train data/imagenet_train.beton --val data/imagenet_val.beton
    torchrun --nproc-per-node 8 tools/linear.py … --lr 0.1 0.2 0.4 0.8
    python tools/linear.py backbone.pt --protocol small --sweep --train … --val …
    python tools/linear.py backbone.pt --rcfg rcfgs/eval/linear_two_crop.yaml --train … --val …

Protocols: imagenet (INTL's: random crops, SGD, 100 epochs), cw_rgp (random crops, LARS, batch 1024), small (features
once, without augmentation, Adam, 500 epochs) and quick (features once, L-BFGS from scikit-learn, for a sanity check).

Several --lr or --weight-decay, or --sweep (forty of them around the protocol's), train one classifier each, all at
once in one pass over the images. The best is chosen by the held-out images, as the field does.

small and quick keep the features under --features and use them again; without weights, --train and --val are folders
that tools/features.py wrote. imagenet and cw_rgp save their state; the same command again goes on where it was, also
after a kill and with another number of GPUs.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import command_line as command  # noqa: E402
from fastintl.evaluate.arguments import parse_with_recipe  # noqa: E402
from loaders.errors import UserError, exit_on_user_error  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", help="file of weights, run folder or URL")
    parser.add_argument("--protocol", default="imagenet", choices=("imagenet", "cw_rgp", "small", "quick"))
    command.add_options(parser)
    parser.add_argument(
        "--features", type=Path, default=Path("features"), help="folder that keeps features (default: features)"
    )
    changes = parser.add_argument_group("changes to the protocol (not of quick)")
    changes.add_argument("--epochs", type=int)
    changes.add_argument("--batch-size", type=int, help="over all ranks")
    changes.add_argument("--optimizer", choices=("sgd", "lars", "larc", "adam"), help="larc is lars with a clip")
    changes.add_argument("--schedule", choices=("steps", "cosine", "exponential", "constant"))
    changes.add_argument("--lr", type=float, nargs="+", help="for 256 images a step; adam's: of a step")
    changes.add_argument("--weight-decay", type=float, nargs="+")
    changes.add_argument("--sweep", action="store_true", help="ten learning rates times four weight decays")
    kept = parser.add_argument_group("imagenet and cw_rgp")
    command.add_random_crops(kept)
    kept.add_argument("--out", type=Path, help="folder of the state (default: runs/linear-…, named after the settings)")
    kept.add_argument("--save-minutes", type=float, default=10, help="save this often within an epoch (default: 10)")
    kept.add_argument("--eval-every", type=int, default=0, help="test every so many epochs (default: 0, at the end)")
    return parse_with_recipe(parser, words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)

    from fastintl import distributed

    with distributed.start(arguments.device) as world:
        if arguments.protocol == "quick":
            _quick(arguments, world)
        else:
            _heads(arguments, world)


def _protocol(arguments: argparse.Namespace):
    from dataclasses import replace

    from fastintl.evaluate.linear import protocols

    known = {"imagenet": protocols.IMAGENET, "cw_rgp": protocols.CW_RGP, "small": protocols.SMALL}
    protocol = known[arguments.protocol]
    for name in ("epochs", "batch_size", "optimizer", "schedule"):
        value = getattr(arguments, name)
        if value is not None:
            protocol = replace(protocol, **{name: value})
    if protocol.epochs < 1 or protocol.batch_size < 1:
        raise UserError("--epochs and --batch-size must be positive")
    if arguments.sweep and (arguments.lr or arguments.weight_decay):
        raise UserError("--sweep chooses learning rates and weight decays itself: leave --lr and --weight-decay out")
    if arguments.sweep:
        return protocols.sweep(protocol)
    lr, decay = tuple(arguments.lr or protocol.lr), tuple(arguments.weight_decay or protocol.weight_decay)
    if min(lr) <= 0 or min(decay) < 0:
        raise UserError("--lr must be above 0, and --weight-decay not below")
    return replace(protocol, lr=lr, weight_decay=decay)


def _heads(arguments: argparse.Namespace, world) -> None:
    from dataclasses import asdict

    from fastintl.evaluate.linear import probes as linear

    protocol = _protocol(arguments)
    train = _small if arguments.protocol == "small" else _frozen
    scores, settings = train(arguments, world, protocol, {"protocol": arguments.protocol, **asdict(protocol)})
    if not world.is_main:
        return
    winner = scores[linear.best(scores)]
    if len(scores) > 1:
        _print_heads(scores, winner)
    details = {"heads": [asdict(score) for score in scores], "lr": winner.lr, "weight_decay": winner.weight_decay}
    metrics = {"top1": winner.top1, "top5": winner.top5}
    command.report(arguments, f"linear, {arguments.protocol}", settings, metrics, details)


def _small(arguments: argparse.Namespace, world, protocol, said: dict) -> tuple[list, dict]:
    """Trains on features made once; every rank on its own, to the same result."""
    from fastintl.evaluate.linear import probes as linear
    from loaders.progress import Progress

    bank, queries, classes, subject = _features(arguments, world)
    with Progress("training", "epochs", protocol.epochs) if world.is_main else nullcontext() as progress:
        on_epoch = (lambda: progress.advance(1)) if progress else (lambda: None)
        _, scores = linear.fit_heads(bank, queries, classes, protocol, arguments.seed, world.device, on_epoch)
    return scores, command.settings_of(arguments, subject, said)


def _frozen(arguments: argparse.Namespace, world, protocol, said: dict) -> tuple[list, dict]:
    """Trains on random crops, with checkpoints."""
    from fastintl.evaluate.epoch_loop import EpochLoop
    from fastintl.evaluate.labels import count_classes
    from fastintl.evaluate.linear import probes as linear
    from fastintl.network.precision import autocast_dtype

    if arguments.weights is None:
        raise UserError(f"the protocol {arguments.protocol} needs a file of weights: it crops the images anew")
    subject, dtype = command.open_subject(arguments), autocast_dtype(arguments.precision, world.device)
    crops = command.random_crops(arguments, subject.crop)
    train = command.open_loader(arguments, world, arguments.train, crops, dtype, protocol.batch_size)
    held_out = command.open_loader(arguments, world, arguments.val, subject.crop, dtype)
    classes, dim = count_classes(train.images, held_out.images), subject.network.feature_dim
    probe = linear.FrozenProbe(subject.network, dim, classes, protocol, world, arguments.seed, dtype)
    settings = command.settings_of(arguments, subject, {**said, **command.describe_crops(arguments)})
    identity = command.identity_of(settings, train)
    folder = arguments.out or command.run_folder("linear", identity)
    loop = EpochLoop(probe, train, protocol.epochs, world, folder, identity, arguments.save_minutes, "training")

    def end_of_epoch(epochs: int) -> None:
        if arguments.eval_every and epochs % arguments.eval_every == 0 and epochs < protocol.epochs:
            scores = probe.accuracy(held_out)
            command.say(world, f"epoch {epochs}  top-1 {scores[linear.best(scores)].top1:.2%}")

    with closing(train), closing(held_out):
        loop.fit(end_of_epoch)
        return probe.accuracy(held_out), settings


def _quick(arguments: argparse.Namespace, world) -> None:
    from fastintl.evaluate.linear.logistic import logistic_probe

    bank, queries, classes, subject = _features(arguments, world)
    if world.is_main:
        settings = command.settings_of(arguments, subject, {"protocol": "quick"})
        command.report(arguments, "linear, quick", settings, logistic_probe(bank, queries, classes))


def _features(arguments: argparse.Namespace, world) -> tuple:
    """Features of the training and the held-out images, the number of classes, and the backbone if there is one."""
    from fastintl.evaluate import backbone as subjects
    from fastintl.evaluate.feature_file import load_features
    from fastintl.evaluate.features import Features
    from fastintl.evaluate.labels import count_classes
    from loaders.sources import open_images

    paths = arguments.train, arguments.val
    if arguments.weights is None:
        stored, subject = [load_features(path) for path in paths], None
        classes = int(stored[0].labels.max()) + 1
    else:
        classes, subject = count_classes(*map(open_images, paths)), command.open_subject(arguments)
        reading = subjects.Reading(arguments.source, threads=arguments.threads)
        stored = [subjects.cached_features(subject, path, arguments.features, world, reading) for path in paths]
    return *(Features.of(one) for one in stored), classes, subject


def _print_heads(scores: list, winner) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("learning rate", "weight decay", "top-1", "top-5"):
        table.add_column(column, justify="right")
    for score in scores:
        row = (f"{score.lr:g}", f"{score.weight_decay:g}", f"{score.top1:.2%}", f"{score.top5:.2%}")
        table.add_row(*row, style="bold" if score is winner else None)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
