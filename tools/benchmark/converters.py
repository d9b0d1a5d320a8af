"""Ways to write a folder of images as one file of JPEGs; each is called with a split, a file and its threads.

Nothing here imports torch before a conversion does: it would count as the conversion's memory.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loaders.beton.convert import convert
from loaders.beton.encoding import Storage
from loaders.datasets.folder import class_tree, take
from loaders.datasets.split import Split

_WARM_UP_IMAGES = 8


def ours(split: Split, target: Path, threads: int) -> None:
    """What tools/write_ffcv.py does."""
    convert(split, target, Storage(), threads)


def ffcv_writer(split: Split, target: Path, threads: int) -> None:
    """FFCV's own writer with the same longest side and quality, a process a core."""
    os.environ["TQDM_DISABLE"] = "1"
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    storage = Storage()
    image = RGBImageField(write_mode="jpg", max_resolution=storage.longest_side, jpeg_quality=storage.quality)
    writer = DatasetWriter(str(target), {"image": image, "label": IntField()}, num_workers=threads)
    writer.from_indexed_dataset(_Indexed(split), chunksize=max(1, min(100, len(split) // (4 * threads))))


def pil_loop(split: Split, target: Path, threads: int) -> None:
    """Decode, shrink and encode every image with Pillow, one after another."""
    from PIL import Image

    storage = Storage()
    with open(target, "wb") as file:
        for index in range(len(split)):
            image = _rgb(split, index)
            scale = storage.longest_side / max(image.size)
            if scale < 1:
                image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
            image.save(file, "JPEG", quality=storage.quality)


def decode_alone(split: Split, target: Path, threads: int) -> None:
    """Reads and decodes every image, which no conversion can do without that looks at what it writes."""
    from simplejpeg import decode_jpeg, is_jpeg

    def decode(index: int) -> None:
        data = split.load(index)
        if is_jpeg(data):
            decode_jpeg(data, "RGB")
        else:
            _rgb(split, index)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, range(len(split))))


def measure(function: str, data: Path, cores: list[int]) -> dict:
    """Converts the folder ``data`` on these cores: images a second, CPU seconds an image and peak bytes."""
    os.sched_setaffinity(0, cores)
    write, split = globals()[function], class_tree(data)
    with tempfile.TemporaryDirectory() as place:
        write(take(split, range(min(_WARM_UP_IMAGES, len(split)))), Path(place) / "first.beton", len(cores))
        start, cpu = time.perf_counter(), _cpu_seconds()
        write(split, Path(place) / "all.beton", len(cores))
        wall, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    return {"rate": len(split) / wall, "cpu": cpu / len(split), "peak": _peak_bytes(len(cores))}


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _peak_bytes(processes: int) -> int:
    """Of this process and, counted whole, as many as the largest that it has waited for."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * (own + processes * child)


class _Indexed:
    """A split as FFCV's writer takes it: (RGB image, label) by index."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int):
        return _rgb(self._split, index), int(self._split.labels[index])


def _rgb(split: Split, index: int):
    from PIL import Image

    return Image.open(io.BytesIO(split.load(index))).convert("RGB")


if __name__ == "__main__":  # a process a conversion, which ``conversion`` starts
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))), flush=True)
    os._exit(0)  # after FFCV's writer an ordinary exit may wait for ever
