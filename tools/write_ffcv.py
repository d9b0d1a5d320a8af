"""Writes a dataset as FFCV files, OUT/NAME_train.beton and OUT/NAME_val.beton.

datasets (ROOT defaults to $FASTINTL_DATA/NAME, or data/NAME):
  imagenet       ROOT/train/<wnid>/*.JPEG and ROOT/val/<wnid>/*.JPEG; a flat val/ if ROOT also holds
                 LOC_val_solution.csv or imagenet_2012_validation_synset_labels.txt; or, not unpacked,
                 ROOT/ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz
  imagenet100    the 100 classes of ImageNet-100 from the same ROOT
  folder         any ROOT/class/.../image tree, or two, ROOT/train and ROOT/val (or ROOT/test)
  unlabelled     any ROOT/.../image tree, without labels
  tars           WebDataset's shards in ROOT or ROOT/train and ROOT/val, or ROOT is a tar (of a tar a class, or
                 of a tree), or a pattern such as 'shards/name-{000000..000146}.tar'
  parquet        Hugging Face's files in ROOT or ROOT/data, image{bytes,path} and label
  cifar10        ROOT/cifar-10-batches-py/ or ROOT/cifar-10-python.tar.gz
  cifar100       ROOT/cifar-100-python/ or ROOT/cifar-100-python.tar.gz
  stl10          ROOT/stl10_binary/; train is labelled + unlabelled, train_labelled the 5,000 alone
  tiny-imagenet  ROOT/tiny-imagenet-200/
  demo           twelve classes of drawn patterns, nothing to download

Killed or out of disk, start the same command again: it goes on where it stopped. Images that cannot be
read are left out and listed, with the reason, in OUT/NAME_SPLIT.quarantine.txt.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import exit_on_user_error, require_writable  # noqa: E402
from loaders.files import write_json  # noqa: E402


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="dataset, see above")
    parser.add_argument("--root", type=Path, help="where its files lie")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write to (default: data)")
    text = "shrink images whose longest side is longer; 0 never shrinks (default: 500)"
    parser.add_argument("--longest-side", type=int, default=500, metavar="PIXELS", help=text)
    text = "JPEG quality of images encoded anew; small enough JPEGs keep their bytes (default: 90)"
    parser.add_argument("--quality", type=int, default=90, help=text)
    text = "store pixels, not JPEG; always so for CIFAR and STL-10, which are lossless"
    parser.add_argument("--raw", action="store_true", help=text)
    parser.add_argument("--threads", type=int, default=0, help="encoding threads (default: one a usable core)")
    text = "share to hold out of folder, tars or parquet without val, by a hash of file names; 0: none (default: 0.1)"
    parser.add_argument("--val-share", type=float, default=0.1, help=text)
    parser.add_argument("--seed", type=int, default=0, help="of the demo's images (default: 0)")
    text = "take CIFAR's and STL-10's files without their published checksums"
    parser.add_argument("--no-verify", action="store_true", help=text)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the closing table as JSON, too")
    given = parser.parse_args(words)
    require_writable(given.json)

    from loaders.beton.dataset import convert_dataset, print_reports
    from loaders.beton.encoding import Storage

    storage = Storage(given.longest_side, given.quality, given.raw)
    how = (given.threads, given.val_share, given.seed, not given.no_verify)
    reports = convert_dataset(given.name, given.root, given.out, storage, *how)
    if given.json is not None:
        write_json(given.json, [asdict(report) for report in reports])
    print_reports(reports)


if __name__ == "__main__":
    main()
