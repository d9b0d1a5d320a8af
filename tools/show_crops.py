"""Draws the crops of some images through every source that can run here, one below the other.

A row is a source: the image as it decodes it, with the boxes of the crops in their colours, and the crops. All
sources must give the same boxes and the same colours; the small numbers are mean differences to the first row, in
grey levels of 255. On a GPU the first row is cut by the CPU's engine and the others by the GPU's.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate.command_line import number, seed_number  # noqa: E402
from loaders.errors import UserError, exit_on_user_error, require_writable, writing  # noqa: E402
from loaders.startup import late_imports  # noqa: E402


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rcfg", metavar="RECIPE", help="a file, or a name such as ep100 (default: ep100's values)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="a .beton, folder, tar, … (default: the recipe's)")
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="the epoch's first N images (default: 3)")
    parser.add_argument("--ids", metavar="I,J,...", help="numbers of the images to draw instead")
    epoch = number("--epoch", least=0, most=2**31)
    parser.add_argument("--epoch", type=epoch, default=0, help="whose crops (default: 0)")
    parser.add_argument("--seed", type=seed_number(), help="of the crops (default: the recipe's)")
    parser.add_argument("--out", type=Path, default=Path("crops.png"), metavar="PNG", help="(default: crops.png)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides a key of the recipe")
    given = parser.parse_intermixed_args(words)
    require_writable(given.out)

    from fastintl.config import load

    config = load(given.rcfg, given.overrides)

    with late_imports(crops_on="cpu"):
        from fastintl.data import find, multi_crop
        from fastintl.report.crop_sheet import draw_sheet, through_every_source
        from loaders.sources import open_images

    logging.basicConfig(format="%(message)s")
    seed = config.seed if given.seed is None else given.seed
    images, recipe = open_images(given.data or find(config, "train")), multi_crop(config.crops).at(given.epoch)
    samples = choose(given, len(images), seed)
    rows, left_out = through_every_source(images, recipe, samples, seed, given.epoch)
    title = f"{images.path.name}, recipe {config.name}, seed {seed}, epoch {given.epoch}"
    with writing(given.out):
        sheet = draw_sheet(rows, recipe, [images.names[i] for i in rows[0].ids], title, left_out)
        sheet.save(given.out, format="PNG")
    print(f"{given.out}: {len(samples)} images through {', '.join(row.label for row in rows)}")
    for row in rows[1:]:
        worst = max(max(row.differences(rows[0], i)) for i in range(len(samples)))
        print(f"  {row.label}: at most {worst:.2f} grey levels of mean difference to {rows[0].label} in a crop")
    for reason in left_out:
        print(f"  {reason}")


def choose(given: argparse.Namespace, count: int, seed: int) -> list[int]:
    """Ids of the images to draw."""
    from loaders.order import permutation

    if given.ids is None:
        if not 1 <= given.samples <= count:
            raise UserError(f"--samples {given.samples}: the dataset has {count} images, choose from 1 to {count}")
        return permutation(count, seed, given.epoch)[: given.samples].tolist()
    try:
        ids = [int(word) for word in given.ids.split(",")]
    except ValueError:
        raise UserError(f"--ids {given.ids}: give whole numbers with commas between, such as 1,2,3") from None
    for i in ids:
        if not 0 <= i < count:
            raise UserError(f"--ids {i}: the dataset's images have the numbers 0 to {count - 1}")
    return ids


if __name__ == "__main__":
    main()
