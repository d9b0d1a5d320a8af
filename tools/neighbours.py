"""Shows what a run learnt: nearest neighbours, a map of the embedding, accuracy per class; a page for the browser.

    python tools/neighbours.py runs/demo
    python tools/neighbours.py runs/demo --map tsne --points 1000
    python tools/neighbours.py r50.pth.tar --train imagenet/train --val imagenet/val --out r50.html

It takes the run's own images, looks for the nearest training images of those held out, and writes neighbours.html into
the run's folder; report.html there shows the same. Without held-out images each training image is looked up among the
others, and without labels nothing is called right or wrong. The features are kept under --features, for
tools/knn.py too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script of a clone
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastintl.evaluate import command_line  # noqa: E402
from loaders.errors import UserError, exit_on_user_error, require_writable  # noqa: E402
from loaders.startup import late_imports  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="run folder; or file of weights or URL, with --train and --out")
    parser.add_argument("--train", type=Path, help="images to search: .beton or folder (default: the run's)")
    parser.add_argument("--val", type=Path, help="images to look up, likewise (default: the run's)")
    least = command_line.number("--k", least=1)
    parser.add_argument("--k", type=least, help="neighbours that vote (default: the run's eval.k, else 5)")
    text = "which map beside PCA's (default: UMAP or t-SNE, what is installed)"
    parser.add_argument("--map", choices=("auto", "pca", "tsne", "umap"), default="auto", help=text)
    points = command_line.number("--points", least=2)
    parser.add_argument("--points", type=points, default=400, help="at most so many images on it (default: 400)")
    text = "the page (default: neighbours.html in the run's folder)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)
    command_line.add_feature_cache(parser)
    command_line.add_network(parser)
    command_line.add_images(parser)
    text = "images at a time, of all ranks (default: 256)"
    parser.add_argument("--batch-size", type=command_line.number("--batch-size", least=1), default=256, help=text)
    given = parser.parse_args(words)
    if given.train is None and given.val is not None:
        raise UserError(f"--val {given.val}: name the images to search by --train, too")
    if given.out is None and not Path(given.weights).is_dir():
        raise UserError(f"{given.weights} is no run folder: say by --out where the page goes")
    require_writable(given.out)
    return given


@exit_on_user_error
def main(words: list[str] | None = None) -> None:
    given = parse_arguments(words)

    with late_imports():
        from fastintl import distributed
        from fastintl.evaluate.backbone import Reading, open_backbone
        from fastintl.evaluate.neighbours import data_of_run, find_neighbours, require_layout
        from fastintl.evaluate.results import print_rows
        from fastintl.report import neighbours
        from fastintl.report.run_page import refresh_report
        from fastintl.runs.folder import RunFolder
        from loaders.errors import writing
        from loaders.files import write_text

    require_layout(given.map)
    train, val, k = given.train, given.val, given.k or 5
    if train is None:
        train, val, run_k = data_of_run(Path(given.weights))
        k = given.k or run_k
    with distributed.start(given.device) as world:
        backbone = open_backbone(given.weights, given.arch, given.stem, given.target, given.resize, given.size)
        reading = Reading(given.source, given.batch_size, given.threads)
        title = Path(given.weights).resolve().name
        found = find_neighbours(backbone, title, train, val, given.features, world, reading, k, given.points, given.map)
        if found is None:
            return
        folder = RunFolder(Path(given.weights))
        out = given.out or folder.neighbours_page
        with writing(out):
            write_text(out, neighbours.draw(found))
        if given.out is None:
            with writing(folder.neighbours):
                neighbours.write(found, folder.neighbours)
            if folder.config.is_file():
                refresh_report(folder.path)
        for header, rows in neighbours.as_text(found):
            print_rows(header, rows)
        in_report = "" if given.out else f", and in {folder.report}"
        print(f"page: {out}{in_report}")


if __name__ == "__main__":
    main()
