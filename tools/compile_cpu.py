"""Compiles what the CPU runs (crops, decoding, nearest neighbours, linear heads) into numba's cache, ahead of its use.

    python tools/compile_cpu.py

Whatever needs them compiles them anyway; a run whose code is in the cache begins ten seconds sooner. ``make setup``
does this once. A new version of the code, of numba or of the CPU is compiled anew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import exit_on_user_error  # noqa: E402


@exit_on_user_error
def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compile_loader(Path(folder) / "demo.beton")
    compile_neighbours()
    compile_heads()


def compile_loader(file: Path) -> None:
    """Crops a batch of images, decoded by the fastest source, on one thread and on two."""
    from loaders import CropSpec, MultiCrop, make_loader
    from loaders.beton.convert import convert
    from loaders.datasets.demo import demo_splits

    convert(demo_splits(train=4)["train"], file)
    for threads in (1, 2):
        loader = make_loader(file, MultiCrop((CropSpec(32),)), batch_size=4, threads=threads)
        for _ in loader:
            pass
        loader.close()


def compile_neighbours() -> None:
    """Searches among a few features."""
    import torch

    from fastintl.evaluate.nearest import knn

    features = torch.rand(60, 8)
    knn.predict(features, torch.zeros(60, dtype=torch.int64), features[:4])


def compile_heads() -> None:
    """Trains a head on a few features by the protocol of small datasets, which has Adam."""
    import torch

    from fastintl.evaluate.features import Features
    from fastintl.evaluate.linear.protocols import SMALL
    from fastintl.evaluate.linear.training import train_on_features

    few = Features(torch.rand(4, 8), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    train_on_features(few, 2, replace(SMALL, epochs=1))


if __name__ == "__main__":
    main()
