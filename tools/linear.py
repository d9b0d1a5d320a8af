"""Tests a backbone by a linear classifier on its frozen features.

    python tools/linear.py runs/mine
    python tools/linear.py r50.pth.tar --train data/imagenet_train.beton --val data/imagenet_val.beton
    torchrun --nproc-per-node 8 tools/linear.py … --lr 0.1 0.2 0.4 0.8
    python tools/linear.py backbone.pt --protocol small --sweep --train … --val …
    python tools/linear.py backbone.pt --rcfg rcfgs/eval/linear_two_crop.yaml --train … --val …

Images and view are the run's where nothing else is said.

Protocols: imagenet (INTL's: random crops, SGD, 100 epochs), cw_rgp (random crops, LARS, batch 1024), small (features
once, without augmentation, Adam, 500 epochs) and quick (features once, L-BFGS from scikit-learn, for a sanity check).

Several --lr or --weight-decay, or --sweep (forty of them around the protocol's), train one classifier each, all at
once in one pass over the images. The best is chosen by the held-out images, as the field does.

small and quick keep the features under --features and use them again; without weights, --train and --val are folders
that tools/features.py wrote. imagenet and cw_rgp save their state; the same command resumes them, also after a kill
and with another number of GPUs.
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
    parser.add_argument("--protocol", default="imagenet", choices=("imagenet", "cw_rgp", "small", "quick"))
    command_line.add_supervision(parser)
    command_line.add_feature_cache(parser)
    changes = parser.add_argument_group("changes to the protocol (not of quick)")
    changes.add_argument("--epochs", type=number("--epochs", least=1))
    changes.add_argument("--batch-size", type=number("--batch-size", least=1), help="over all ranks")
    changes.add_argument("--optimizer", choices=("sgd", "lars", "larc", "adam"), help="larc is lars with a clip")
    changes.add_argument("--schedule", choices=("steps", "cosine", "exponential", "constant"))
    rate, decay = number("--lr", float, above=0), number("--weight-decay", float, least=0)
    changes.add_argument("--lr", type=rate, nargs="+", help="for 256 images a step; adam's: of a step")
    changes.add_argument("--weight-decay", type=decay, nargs="+")
    changes.add_argument("--sweep", action="store_true", help="ten learning rates times four weight decays")
    command_line.add_resumable_training(parser.add_argument_group("imagenet and cw_rgp"), "runs/linear-…")
    return command_line.parse_with_recipe(parser, words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    given = parse_arguments(words)
    on_features = given.protocol in ("small", "quick")

    with late_imports(crops_on=None if on_features else given.device):
        from fastintl import distributed
        from fastintl.evaluate import results
        from fastintl.evaluate.backbone import Reading, images_for, open_backbone
        from fastintl.evaluate.linear.probes import print_heads, probe_on_crops, probe_on_features
        from fastintl.evaluate.supervised import SupervisedTraining

    with distributed.start(given.device) as world:
        name, reading, backbone = given.protocol, Reading(given.source, threads=given.threads), None
        protocol = None if name == "quick" else _protocol(given)
        if given.weights is not None:
            backbone = open_backbone(given.weights, given.arch, given.stem, given.target, given.resize, given.size)
        train, val = images_for(backbone, given.train, given.val)
        if on_features:
            data = {"train": train, "val": val}
            result = probe_on_features(backbone, name, protocol, data, given.features, reading, given.seed, world)
        elif backbone is None:
            raise UserError(f"the protocol {name} needs a file of weights: it crops the images anew")
        else:
            images, crops = (train, val, reading), (given.crop_area, given.crop_interpolation)
            kept = given.out, given.save_minutes, given.eval_every
            training = SupervisedTraining(*images, given.precision, given.seed, *crops, *kept)
            result = probe_on_crops(backbone, name, protocol, training, world)
        if world.is_main:
            results.write(result, given.json, given.results)
            if len(result.details.get("heads", ())) > 1:
                print_heads(result)
            results.print_table(result)


def _protocol(given: argparse.Namespace):
    from dataclasses import replace

    from fastintl.evaluate.linear.protocols import PROTOCOLS, sweep

    if given.sweep and (given.lr or given.weight_decay):
        raise UserError("--sweep chooses learning rates and weight decays itself: leave --lr and --weight-decay out")
    changes = {name: getattr(given, name) for name in ("epochs", "batch_size", "optimizer", "schedule")}
    changes |= {name: tuple(getattr(given, name) or ()) or None for name in ("lr", "weight_decay")}
    changed = {name: value for name, value in changes.items() if value is not None}
    protocol = replace(PROTOCOLS[given.protocol], **changed)
    return sweep(protocol) if given.sweep else protocol


if __name__ == "__main__":
    main()
