"""All splits of a dataset as ``.beton`` files, and a table of what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loaders.beton.convert import Report, convert
from loaders.beton.encoding import Storage
from loaders.datasets.catalogue import default_root, open_dataset
from loaders.datasets.public_files import verify
from loaders.errors import UserError


def convert_dataset(
    name: str,
    root: Path | None,
    out: Path,
    storage: Storage,
    threads: int = 0,
    val_share: float = 0.1,
    seed: int = 0,
    verified: bool = True,
) -> list[Report]:
    """Writes each split of a dataset as ``out/<name>_<split>.beton``; see ``open_dataset`` and ``convert``.

    Args:
        storage: how images are stored; pixels in any case where the dataset itself is lossless.
        verified: public files must have their published checksums.

    Raises:
        UserError: ``out`` has held-out images of an earlier conversion, and this one holds none out.
    """
    if verified:
        verify(name, root or default_root(name))
    splits = open_dataset(name, root, val_share=val_share, seed=seed)
    if "val" not in splits and (left := out / f"{name}_val.beton").exists():
        raise UserError(
            f"{left} has held out images that {name}_train.beton would hold now: remove it, or change --out"
        )
    return [
        convert(split, out / f"{name}_{part}.beton", replace(storage, raw=storage.raw or split.raw), threads)
        for part, split in splits.items()
    ]


def print_reports(reports: Sequence[Report]) -> None:
    """A line for each file, and what there is to know about some of them."""
    width = max(len(report.file) for report in reports)
    print(f"{'file':{width}}  {'images':>9}  {'MB':>9}  {'left out':>8}  {'seconds':>8}  {'images/s':>10}")
    for report in reports:
        counts = f"{report.images:9,}  {report.bytes / 1e6:9,.1f}  {report.skipped:8,}"
        print(f"{report.file:{width}}  {counts}  {report.seconds:8,.1f}  {report.images_per_second:10,.0f}")
    for report in reports:
        if report.skipped:
            print(f"{report.file}: left out {report.skipped} that cannot be read; {report.quarantine} says why")
        if report.empty_classes:
            count = len(report.empty_classes)
            some = ", ".join(report.empty_classes[:10]) + (", ..." if count > 10 else "")
            print(f"{report.file}: {count} classes without an image keep their numbers: {some}")
        if report.finished_before:
            print(f"{report.file}: was finished before, left as it is")
