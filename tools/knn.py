"""Classifies held-out images by their nearest training images, as a backbone sees them.

    python tools/knn.py runs/demo --train data/demo/demo_train.beton --val data/demo/demo_val.beton
    python tools/knn.py r50.pth.tar --train imagenet/train --val imagenet/val --k 1,5,20,200 --metric cosine
    python tools/knn.py --train features/train --val features/val --vote weighted --k 20

The features are kept under --features and used again by the next command that needs the same. Without weights,
--train and --val are folders that tools/features.py wrote. INTL's protocol is the default: 5 neighbours, Euclidean
distance of unnormalised features, majority vote. Others are recipes: --rcfg rcfgs/eval/knn_200_weighted.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import arguments as options  # noqa: E402
from loaders.errors import UserError, exit_on_user_error  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", help="file of weights, run folder or URL")
    parser.add_argument("--train", type=Path, required=True, help="images that vote: .beton, folder, or features")
    parser.add_argument("--val", type=Path, required=True, help="images to classify, likewise")
    parser.add_argument("--k", type=_numbers, default=[5], help="neighbours, one or several: 1,5,20 (default: 5)")
    parser.add_argument("--metric", choices=("euclidean", "cosine"), default="euclidean", help="(default: euclidean)")
    parser.add_argument("--vote", choices=("majority", "weighted"), default="majority", help="(default: majority)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the weighted vote (default: 0.07)")
    parser.add_argument("--memory", type=float, default=2.0, metavar="GB", help="for the search (default: 2)")
    parser.add_argument(
        "--features", type=Path, default=Path("features"), help="folder that keeps features (default: features)"
    )
    options.add_subject(parser)
    options.add_results(parser)
    return options.parse_with_recipe(parser, words)


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    given = parse_arguments(words)

    from fastintl import distributed
    from fastintl.evaluate import results
    from fastintl.evaluate.backbone import cached_features, from_arguments
    from fastintl.evaluate.nearest.protocol import compare, knn_settings

    with distributed.start(given.device) as world:
        if given.weights is None:
            from fastintl.evaluate.feature_file import load_features

            train, val = load_features(given.train), load_features(given.val)
        else:
            subject, reading = from_arguments(given)
            train, val = (
                cached_features(subject, data, given.features, world, reading, given.flip_average)
                for data in (given.train, given.val)
            )
        settings = knn_settings(given.metric, given.vote, given.temperature)
        scores = compare(train, val, given.k, world, memory=given.memory * 1e9, **settings)
        if world.is_main:
            result = results.Result(
                task="k-NN",
                data={"train": str(given.train), "val": str(given.val)},
                backbone=train.meta["backbone"],
                sha256=train.meta["sha256"],
                settings={**settings, **{name: train.meta[name] for name in _SHOWN}},
                metrics={f"{k}-nn": score for k, score in scores.items()},
            )
            results.print_table(result)
            results.write(result, given.json, given.results)


_SHOWN = ("arch", "stem", "target", "resize", "size", "flip_average")


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--k {text}: give numbers with commas between them, such as 1,5,20") from None


if __name__ == "__main__":
    main()
