"""Writes a backbone's features of a dataset to a folder of memory-mapped arrays.

    python tools/features.py runs/demo --data data/demo/demo_val.beton --out features/demo_val
    torchrun --nproc-per-node 8 tools/features.py r50.pth.tar --data imagenet/train --out features/train

The same command again, with any number of ranks, resumes one that was killed. tools/knn.py takes such folders in place
of images; in Python, fastintl.evaluate.features.load_features opens them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import command_line  # noqa: E402
from loaders.errors import exit_on_user_error, require_writable  # noqa: E402
from loaders.files import write_json  # noqa: E402
from loaders.startup import late_imports  # noqa: E402


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="file of weights, run folder or URL")
    parser.add_argument("--data", type=Path, required=True, help=".beton file or folder class/image")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what the features are of as JSON, too")
    command_line.add_extraction(parser)
    given = parser.parse_args(words)
    require_writable(given.json)

    with late_imports():
        from fastintl import distributed
        from fastintl.evaluate.backbone import Reading, open_backbone
        from fastintl.evaluate.features import features_of

    with distributed.start(given.device) as world:
        backbone = open_backbone(given.weights, given.arch, given.stem, given.target, given.resize, given.size)
        reading = Reading(given.source, given.batch_size, given.threads)
        stored = features_of(backbone, given.data, given.out, world, reading, given.flip_average)
        if world.is_main:
            if given.json is not None:
                write_json(given.json, stored.meta)
            count, channels = stored.features.shape
            print(f"{given.out}: {count:,} features of {channels:,} channels, {stored.features.nbytes / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
