"""images/s and MB/s of writing a folder of images as one .beton file, on one core and on all, beside FFCV's own
writer, a loop over Pillow, its own decoder and encoder without a file, and decoding alone to full size. Each
conversion has a process of its own; they are timed in turn, without start-up. Every image must be readable: FFCV's
writer waits for ever after one that is not.

    python tools/bench.py convert --data images --json convert.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.errors import UserError

from .contenders import Contender, Rounds, ratio, time_in_turn
from .options import add_timing, require_positive
from .results import Target, print_results, rate_table, rates_as_json, write_result

if TYPE_CHECKING:
    from loaders.datasets.split import Split

OURS, FFCV, PIL, DECODE = "ours", "FFCV's DatasetWriter", "PIL loop", "decode alone"
CODEC = "our decoder and encoder alone"
_PROMISED = {((OURS, 1), (CODEC, 1)): 0.9}
_WARM_UP_IMAGES = 8
_PLACE = Path(__file__).resolve().parents[__package__.count(".") + 1]  # from which Python finds this package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder class/image")
    add_timing(parser, rounds=3)


def run(arguments: argparse.Namespace) -> None:
    from loaders.datasets.folder import class_tree

    require_positive(arguments, "rounds")
    if not arguments.data.is_dir():
        raise UserError(f"{arguments.data} is no folder: give a folder class/image")
    names = class_tree(arguments.data).names
    megabytes = sum((arguments.data / name).stat().st_size for name in names) / 1e6
    cores = len(os.sched_getaffinity(0))
    group = contenders(arguments.data, cores)
    time_in_turn(group, arguments.rounds)
    found = targets(group, cores)
    sizes = {"images": len(names), "megabytes": megabytes, "rounds": arguments.rounds}
    rows = rates_as_json("conversion", group)
    write_result(arguments, "convert", **sizes, contenders=rows, targets=[target.as_json() for target in found])
    print_results([rate_table("conversion", group, megabytes / len(names))], group, found)


def contenders(data: Path, cores: int) -> list[Contender]:
    """Who runs against whom, on one core and on all."""

    def contender(name: str, function: str, many: int) -> Contender:
        return Contender(name, partial(_rounds, function, data, many), {"function": function, "cores": many})

    found = [contender(PIL, "pil_loop", 1), contender(CODEC, "codec_alone", 1)]
    for many in sorted({1, cores}):
        ways = ((FFCV, "ffcv_writer"), (OURS, "ours"), (DECODE, "decode_alone"))
        found += [contender(name, function, many) for name, function in ways]
    return found


def targets(group: Sequence[Contender], cores: int) -> list[Target]:
    """Ratios that tell where the time goes."""
    by = {(contender.name, contender.settings["cores"]): contender for contender in group}
    pairs = [((OURS, 1), (PIL, 1)), ((OURS, 1), (FFCV, 1)), ((OURS, 1), (CODEC, 1)), ((OURS, 1), (DECODE, 1))]
    if cores > 1:
        pairs += [((OURS, cores), (FFCV, cores)), ((OURS, cores), (DECODE, cores)), ((OURS, cores), (OURS, 1))]
    found = []
    for pair in pairs:
        what = " : ".join(f"{name}, {many} core{'s' * (many > 1)}" for name, many in pair)
        found.append(Target(what, _PROMISED.get(pair), ratio(*(by[one] for one in pair), "images_per_second")))
    return found


def _rounds(function: str, data: Path, cores: int) -> Rounds:
    """One conversion a round, in a fresh process, so that nothing that others imported counts as its memory."""
    command = [sys.executable, "-m", f"{__package__}.convert", function, data.resolve(), str(cores)]
    yield {}
    while True:
        ended = subprocess.run(command, cwd=_PLACE, capture_output=True, text=True)
        if ended.returncode:
            raise UserError((ended.stderr.splitlines() or ["its process died"])[-1])
        yield json.loads(ended.stdout.splitlines()[-1])


# What follows runs in that process. It imports torch no sooner than a conversion itself does.


def measure(function: str, data: Path, cores: int) -> dict[str, float]:
    """Converts the folder ``data`` on so many cores: images a second, CPU seconds an image and peak bytes."""
    from loaders.datasets.folder import class_tree, take

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    write, split = globals()[function], class_tree(data)
    with tempfile.TemporaryDirectory() as place:
        write(take(split, range(min(_WARM_UP_IMAGES, len(split)))), Path(place) / "first.beton", cores)
        start, cpu = time.perf_counter(), _cpu_seconds()
        write(split, Path(place) / "all.beton", cores)
        wall, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    rates = {"images_per_second": len(split) / wall, "cpu_seconds_per_image": cpu / len(split)}
    return {**rates, "peak_bytes": _peak_bytes(cores)}


def ours(split: Split, target: Path, threads: int) -> None:
    """What tools/write_ffcv.py does."""
    from loaders.beton.convert import convert
    from loaders.beton.encoding import Storage

    convert(split, target, Storage(), threads)


def ffcv_writer(split: Split, target: Path, threads: int) -> None:
    """FFCV's own writer with the same longest side and quality, a process a core."""
    os.environ["TQDM_DISABLE"] = "1"
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    from loaders.beton.encoding import Storage

    storage = Storage()
    image = RGBImageField(write_mode="jpg", max_resolution=storage.longest_side, jpeg_quality=storage.quality)
    writer = DatasetWriter(str(target), {"image": image, "label": IntField()}, num_workers=threads)
    writer.from_indexed_dataset(_Indexed(split), chunksize=max(1, min(100, len(split) // (4 * threads))))


class _Indexed:
    """A split as FFCV's writer takes it: (RGB image, label) by index."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int):
        return _rgb(self._split, index), int(self._split.labels[index])


def pil_loop(split: Split, target: Path, threads: int) -> None:
    """Decode, shrink and encode every image with Pillow, one after another."""
    from PIL import Image

    from loaders.beton.encoding import Storage

    storage = Storage()
    with open(target, "wb") as file:
        for index in range(len(split)):
            image = _rgb(split, index)
            scale = storage.longest_side / max(image.size)
            if scale < 1:
                image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
            image.save(file, "JPEG", quality=storage.quality)


def codec_alone(split: Split, target: Path, threads: int) -> None:
    """The least that gives the same images: each read, decoded and, where it is not kept as it is, shrunk and encoded,
    by the same library with the same settings, one after another; nothing checked and nothing written."""
    from PIL import Image

    from loaders.beton.encoding import Storage

    storage = Storage()
    for index in range(len(split)):
        image = Image.open(io.BytesIO(split.load(index)))
        scale = min(1, storage.longest_side / max(image.size))
        if scale == 1 and image.format == "JPEG" and image.mode in ("RGB", "L"):
            image.draft(None, (1, 1))
            image.load()
            continue
        size = [max(1, round(side * scale)) for side in image.size]
        drafted = image.draft(None, (2 * size[0], 2 * size[1])) if scale < 1 else None
        image = image.convert("RGB").resize(size, Image.Resampling.LANCZOS, drafted and drafted[1])
        image.save(io.BytesIO(), "JPEG", quality=storage.quality)


def decode_alone(split: Split, target: Path, threads: int) -> None:
    """Reads every image and decodes it to all its pixels."""
    from concurrent.futures import ThreadPoolExecutor

    from simplejpeg import decode_jpeg, is_jpeg

    def decode(index: int) -> None:
        data = split.load(index)
        if is_jpeg(data):
            decode_jpeg(data, "RGB")
        else:
            _rgb(split, index)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, range(len(split))))


def _rgb(split: Split, index: int):
    from PIL import Image

    return Image.open(io.BytesIO(split.load(index))).convert("RGB")


def _cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _peak_bytes(processes: int) -> int:
    """Memory of this process and, for each of so many, of the largest that it has waited for."""
    import resource

    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * (own + processes * child)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))), flush=True)
    os._exit(0)  # after FFCV's writer an ordinary exit may wait for ever
