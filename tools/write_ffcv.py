"""Writes a dataset as FFCV files, OUT/NAME_train.beton and OUT/NAME_val.beton.

datasets (ROOT defaults to $FASTINTL_DATA/NAME, or data/NAME):
  imagenet       ROOT/train/<wnid>/*.JPEG and ROOT/val/<wnid>/*.JPEG; a flat val/ if ROOT also holds
                 LOC_val_solution.csv or imagenet_2012_validation_synset_labels.txt
  imagenet100    the 100 classes of ImageNet-100 from the same ROOT
  folder         any ROOT/class/.../image tree, or two, ROOT/train and ROOT/val (or ROOT/test)
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
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loaders.errors import exit_on_user_error  # noqa: E402
from loaders.files import write_json  # noqa: E402


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="dataset, see above")
    parser.add_argument("--root", type=Path, help="where its files lie")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write to (default: data)")
    parser.add_argument(
        "--longest-side",
        type=int,
        default=500,
        metavar="PIXELS",
        help="shrink images whose longest side is longer; 0 never shrinks (default: 500)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=90,
        help="JPEG quality of images encoded anew; small enough JPEGs keep their bytes (default: 90)",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="store pixels, not JPEG; always so for CIFAR and STL-10, which are lossless",
    )
    parser.add_argument("--threads", type=int, default=0, help="encoding threads (default: one a usable core)")
    parser.add_argument(
        "--val-share",
        type=float,
        default=0.1,
        help="share to hold out of a folder without val/, by a hash of the file names (default: 0.1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the demo's images (default: 0)")
    parser.add_argument(
        "--no-verify", action="store_true", help="take CIFAR's and STL-10's files without their published checksums"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the closing table as JSON, too")
    return parser.parse_args(arguments)


@exit_on_user_error
def main() -> None:
    arguments = parse_arguments()
    from loaders.beton.convert import convert
    from loaders.beton.encoding import Storage
    from loaders.datasets.catalogue import default_root, open_dataset
    from loaders.datasets.public_files import verify

    if not arguments.no_verify:
        verify(arguments.name, arguments.root or default_root(arguments.name))
    storage = Storage(arguments.longest_side, arguments.quality, arguments.raw)
    splits = open_dataset(arguments.name, arguments.root, val_share=arguments.val_share, seed=arguments.seed)
    reports = []
    for part, split in splits.items():
        target = arguments.out / f"{arguments.name}_{part}.beton"
        stored = dataclasses.replace(storage, raw=storage.raw or split.raw)
        reports.append(convert(split, target, stored, arguments.threads))
    print_table(reports)
    if arguments.json is not None:
        write_json(arguments.json, [dataclasses.asdict(report) for report in reports])


def print_table(reports: list) -> None:
    width = max(len(report.file) for report in reports)
    print(f"{'file':{width}}  {'images':>9}  {'MB':>9}  {'left out':>8}  {'seconds':>8}  {'images/s':>10}")
    for report in reports:
        print(
            f"{report.file:{width}}  {report.images:9,}  {report.bytes / 1e6:9,.1f}  {report.skipped:8,}  "
            f"{report.seconds:8,.1f}  {report.images_per_second:10,.0f}"
        )
    for report in reports:
        if report.skipped:
            print(f"{report.file}: left out {report.skipped} that cannot be read; {report.quarantine} says why")
        if report.empty_classes:
            some = ", ".join(report.empty_classes[:10]) + (", ..." if len(report.empty_classes) > 10 else "")
            count = len(report.empty_classes)
            print(f"{report.file}: {count} classes without an image keep their numbers: {some}")
        if report.finished_before:
            print(f"{report.file}: was finished before, left as it is")


if __name__ == "__main__":
    main()
