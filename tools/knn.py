"""Classifies held-out images by their nearest training images, as a backbone sees them.

    python tools/knn.py runs/demo
    python tools/knn.py r50.pth.tar --train imagenet/train --val imagenet/val --k 1,5,20,200 --metric cosine
    python tools/knn.py --train features/train --val features/val --vote weighted --k 20

Images and view are the run's where nothing else is said. The features are kept under --features and used again by the
next command that needs the same. Without weights, --train and --val are folders that tools/features.py wrote. INTL's
protocol is the default: 5 neighbours, Euclidean distance of unnormalised features, majority vote. Others are recipes:
--rcfg rcfgs/eval/knn_200_weighted.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import command_line  # noqa: E402
from loaders.errors import UserError, exit_on_user_error  # noqa: E402
from loaders.startup import late_imports  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", help="file of weights, run folder or URL")
    text = "images that vote: .beton, folder, or features (default: the run's)"
    parser.add_argument("--train", type=Path, help=text)
    parser.add_argument("--val", type=Path, help="images to classify, likewise")
    parser.add_argument("--k", type=_numbers, default=[5], help="neighbours, one or several: 1,5,20 (default: 5)")
    parser.add_argument("--metric", choices=("euclidean", "cosine"), default="euclidean", help="(default: euclidean)")
    parser.add_argument("--vote", choices=("majority", "weighted"), default="majority", help="(default: majority)")
    above_0 = command_line.number("--temperature", float, above=0)
    parser.add_argument("--temperature", type=above_0, default=0.07, help="of the weighted vote (default: 0.07)")
    memory = command_line.number("--memory", float, above=0)
    parser.add_argument("--memory", type=memory, default=2.0, metavar="GB", help="for the search (default: 2)")
    command_line.add_feature_cache(parser)
    command_line.add_extraction(parser)
    command_line.add_results(parser)
    return command_line.parse_with_recipe(parser, words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    given = parse_arguments(words)

    with late_imports():
        from fastintl import distributed
        from fastintl.evaluate import results
        from fastintl.evaluate.backbone import Reading, images_for, open_backbone
        from fastintl.evaluate.features import cached_features
        from fastintl.evaluate.nearest import protocol
        from loaders.sources import open_images

    with distributed.start(given.device) as world:
        backbone, reading = None, Reading(given.source, given.batch_size, given.threads)
        if given.weights is not None:
            backbone = open_backbone(given.weights, given.arch, given.stem, given.target, given.resize, given.size)
        data = dict(zip(("train", "val"), images_for(backbone, given.train, given.val), strict=True))
        if backbone is not None:
            protocol.require_votes(*map(open_images, data.values()), given.k, given.memory * 1e9)
        train, val = (
            cached_features(backbone, path, given.features, world, reading, given.flip_average)
            for path in data.values()
        )
        settings = protocol.knn_settings(given.metric, given.vote, given.temperature)
        result = protocol.evaluate(train, val, data, given.k, settings, given.memory * 1e9, world)
        if world.is_main:
            results.write(result, given.json, given.results)
            results.print_table(result)


def _numbers(text: str) -> list[int]:
    try:
        ks = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--k {text}: give numbers with commas between them, such as 1,5,20") from None
    if min(ks) < 1:
        raise UserError(f"--k {text}: a vote needs 1 neighbour or more")
    return ks


if __name__ == "__main__":
    main()
