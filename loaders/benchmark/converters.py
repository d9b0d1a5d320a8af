"""Ways to write a folder of pictures as one file of JPEGs; each is called with a split, a file and its threads."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loaders.convert import convert
from loaders.datasets.split import Split
from loaders.picture_encoding import Storage


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
    """Decode, shrink and encode every picture with Pillow, one after another."""
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
    """Reads and decodes every picture, which no conversion can do without that looks at what it writes."""
    from loaders.sources.decode import decode_picture

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda index: decode_picture(split.load(index)).shape, range(len(split))):
            pass


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
