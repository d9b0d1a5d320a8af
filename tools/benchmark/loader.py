"""images/s from images on disk to normalised crops, for every source that can run here, beside other ways of making
the same crops. Each contender has a process of its own, on one core and on all; they are timed in turn, round after
round, without start-up and compilation, and stopped meanwhile.

    python tools/bench.py loader --data data/imagenet_val.beton --json out.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .contenders import Contender, note, ratio, time_in_turn
from .options import add_timing, require_positive
from .results import Target, print_results, rate_table, rates_as_json, write_result

if TYPE_CHECKING:
    from loaders.recipe import MultiCrop

    from .loader_pipelines import Workload

PIL, VISION, DALI, SIX = "PIL, six pipelines", "torchvision v2, six", "DALI native, CPU", "FFCV, six decodes, no colour"
APART = "ffcv, a process a core"  # what the machine itself makes of more cores
PLAIN = "libjpeg-turbo, one decode"
FLOOR = "decode and resize alone"  # what bounds the full path: no crop can do without either
_SOURCES = ("ffcv", "dali", "memory", "folder")
_TITLES = {
    "full path": "decode, six crops, colour",
    "decode only": "decode only",
    "crops on the GPU": "crops on the GPU",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help=".beton file or folder class/image")
    add_timing(parser)
    parser.add_argument("--rcfg", metavar="RECIPE", help="recipe whose crops are made (default: INTL's for ImageNet)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round (default: 1.5)")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a batch (default: 32)")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from fastintl.config import load
    from fastintl.data import multi_crop
    from loaders.sources import open_images

    sizes = require_positive(arguments, "rounds", "seconds", "batch_size")
    images = open_images(arguments.data)
    recipe = multi_crop(load(arguments.rcfg, ["crops.grow=[]"]).crops)  # what grows is timed at full size
    cores, on_gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    with _workload(arguments.data, recipe, arguments.batch_size, "cuda" if on_gpu else "cpu") as work:
        groups = contenders(work, arguments.seconds, cores)
        for group in groups.values():
            time_in_turn(group, arguments.rounds)
    found = targets(groups["full path"], groups["decode only"], cores)
    sizes = {"images": len(images), "views": [spec.size for spec in recipe.views], **sizes}
    rows = [row for name, group in groups.items() for row in rates_as_json(name, group)]
    write_result(arguments, "loader", **sizes, contenders=rows, targets=[target.as_json() for target in found])
    tables = [rate_table(_TITLES[name], group) for name, group in groups.items()]
    print_results(tables, [contender for group in groups.values() for contender in group], found)


def contenders(work: Workload, seconds: float, cores: int) -> dict[str, list[Contender]]:
    """Who runs against whom, on one core and on all: the full path, decoding alone, and on a GPU the crops alone."""
    from .child_processes import Pipeline, timed_in_processes

    def contender(name: str, function: str, many: int, *arguments: str, ahead: bool = True, processes: int = 1):
        pipeline = Pipeline(function, many, arguments, ahead, processes)
        return Contender(name, partial(timed_in_processes, pipeline, work, seconds), asdict(pipeline))

    full = [
        contender(PIL, "authors_pipeline", 1, ahead=False),
        contender(VISION, "torchvision_v2", 1, ahead=False),
        contender(DALI, "dali_native", 1),
        contender(SIX, "ffcv_six_decodes", 1),
        contender(FLOOR, "decode_and_resize", 1, ahead=False),
    ]
    decode = [contender(PLAIN, "plain_decode", 1, ahead=False)]
    there = ("nvjpeg",) if work.device == "cuda" else ()
    for many in sorted({1, cores}):
        full += [contender(source, "full_path", many, source) for source in (*_SOURCES, *there)]
        decode += [contender(source, "decode_only", many, source) for source in ("ffcv", "dali", "folder", *there)]
    if cores > 1:
        full.append(contender(APART, "full_path", cores, "ffcv", processes=cores))
    groups = {"full path": full, "decode only": decode}
    if work.device == "cuda":
        groups["crops on the GPU"] = [contender("crops on the GPU alone", "crops_on_gpu", cores, ahead=False)]
    return groups


def targets(full: Sequence[Contender], decode: Sequence[Contender], cores: int) -> list[Target]:
    """The project's promises, measured."""
    one, plain = ({c.name: c for c in group if c.settings["cores"] == 1} for group in (full, decode))
    rates: Callable = partial(ratio, what="images_per_second")
    found = [
        Target("ffcv, full path : PIL, on one core", 6.0, rates(one["ffcv"], one[PIL])),
        Target("ffcv, full path : DALI native, on one core", 4.0, rates(one["ffcv"], one[DALI])),
        Target(f"ffcv, full path : {FLOOR}, on one core", None, rates(one["ffcv"], one[FLOOR])),
        Target("ffcv, decode only : libjpeg-turbo, on one core", 1 / 1.25, rates(plain["ffcv"], plain[PLAIN])),
    ]
    if cores > 1:
        many = {c.name: c for c in full if c.settings["cores"] == cores}
        for source in _SOURCES:
            what = f"{source}, full path : itself on one core"
            found.append(Target(what, 0.9 * cores, rates(many[source], one[source])))
        found.append(Target(f"{APART} : one process on one core", None, rates(many[APART], one["ffcv"])))
    return found


@contextmanager
def _workload(data: Path, recipe: MultiCrop, batch_size: int, device: str) -> Iterator[Workload]:
    """The work on ``data``; a folder is converted to a temporary ``.beton`` for those who read nothing else."""
    from .loader_pipelines import Workload

    if not data.is_dir():
        yield Workload(data, data, recipe, batch_size, 1, device)
        return
    from loaders.beton.convert import convert
    from loaders.datasets.folder import class_tree

    with tempfile.TemporaryDirectory() as place:
        note(f"writing the images of {data} as a .beton file")
        beton = Path(place) / "images.beton"
        convert(class_tree(data), beton)
        yield Workload(data, beton, recipe, batch_size, 1, device)
