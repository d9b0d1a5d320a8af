"""Fetches a dataset, compares it with its published checksum and unpacks it into OUT.

    python tools/download.py cifar10 --out data/cifar10
    python -m fastintl.train --rcfg rcfgs/cifar10.yaml data.root=data/cifar10

datasets: cifar10, cifar100, stl10, tiny-imagenet. (ImageNet has to be asked for at its site.)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import exit_on_user_error  # noqa: E402


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("cifar10", "cifar100", "stl10", "tiny-imagenet"), help="dataset")
    parser.add_argument("--out", type=Path, help="folder to unpack into (default: data/NAME)")
    parser.add_argument("--url", help="a mirror of the archive (default: where the dataset's authors keep it)")
    arguments = parser.parse_args()

    from loaders.datasets.catalogue import default_root
    from loaders.datasets.public_files import download_dataset, public_files

    out = arguments.out or default_root(arguments.name)
    print(download_dataset(public_files()[arguments.name], out, arguments.url))


if __name__ == "__main__":
    main()
