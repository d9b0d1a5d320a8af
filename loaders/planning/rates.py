"""How fast this machine decodes and crops.

What is timed is an endless iterator: each ``next`` makes a few more images ready and says how many. ``tools/doctor.py``
and ``tools/bench.py loader`` time the same iterators in the same way.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from loaders.loader import open_engine
from loaders.planning.data_facts import DataFacts
from loaders.recipe import MultiCrop
from loaders.sources import Images
from loaders.sources.choice import open_source
from loaders.sources.decoded import packed
from loaders.sources.quarantine import Quarantine, decode_or_substitute

_IMAGES = 256  # decoded at most
_BATCH = 16
_CROPPED = 32  # cropped at most
_MOST_BYTES = 256 << 20  # of pixels held at a time
_SECONDS = 1.0
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rate:
    """Images a second on the clock, and the processor time of an image in seconds, summed over this process's threads.

    Where other programs use the machine too, the processor time is what can still be trusted.
    """

    images_per_second: float
    cpu_seconds_per_image: float


def measure(ready: Iterator[int], seconds: float, least: int = 1) -> Rate:
    """The rate at which an iterator makes images ready, over so many seconds and at least so many images."""
    start, cpu = time.perf_counter(), time.process_time()
    count = take(ready, seconds, least)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Rate(count / wall, cpu / count)


def take(ready: Iterator[int], seconds: float, least: int = 1) -> int:
    """Makes images ready for so many seconds, and at least so many; returns how many they were."""
    count, end = 0, time.perf_counter() + seconds
    while count < least or time.perf_counter() < end:
        count += next(ready)
    return count


def decoding(
    images: Images,
    ids: Sequence[int],
    source: str,
    batch_size: int,
    threads: int,
    quarantine: Quarantine,
    device: torch.device = _CPU,
) -> Generator[int, None, None]:
    """Decodes the images of these ids with one of the sources, in a new random order in each pass."""
    opened, _ = open_source(images, source, threads, quarantine, device, samples=np.asarray(ids))
    generator = np.random.default_rng(0)
    with closing(opened):
        while True:
            shuffled = generator.permutation(ids)
            for batch in opened.batches(np.split(shuffled, range(batch_size, len(shuffled), batch_size))):
                yield len(batch.ids)


def cropping(
    images: Images,
    ids: Sequence[int],
    recipe: MultiCrop,
    threads: int,
    quarantine: Quarantine,
    device: torch.device = _CPU,
    dtype: torch.dtype = torch.float32,
) -> Generator[int, None, None]:
    """Decodes the images of these ids once, and cuts all their views for one epoch after the other."""
    found, pixels = zip(*(decode_or_substitute(images, int(i), quarantine) for i in ids), strict=True)
    decoded = packed(list(pixels), images.labels[list(found)], np.array(found)).to(device)
    with closing(open_engine(recipe, device, dtype, threads)) as engine:
        for epoch in itertools.count():
            engine(decoded, 0, epoch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield len(found)


def decode_rate(images: Images, facts: DataFacts, source: str, quarantine: Quarantine) -> float:
    """Images that a source decodes in a second of one core's time, on the CPU with one thread."""
    batch_size = int(np.clip(_MOST_BYTES // facts.image_most // 4, 1, _BATCH))
    ids = _some(len(images), _IMAGES // _BATCH * batch_size)
    return _per_core(decoding(images, ids, source, batch_size, 1, quarantine), len(ids))


def crop_rate(images: Images, facts: DataFacts, recipe: MultiCrop, quarantine: Quarantine) -> float:
    """Decoded images of which the CPU engine cuts all views in a second of one core's time."""
    ids = _some(len(images), int(np.clip(_MOST_BYTES // facts.image_most, 1, _CROPPED)))
    return _per_core(cropping(images, ids, recipe, 1, quarantine), len(ids))


def _some(count: int, wanted: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(count)[:wanted]


def _per_core(ready: Generator[int, None, None], images: int) -> float:
    """Images in a second of processor time; a first pass over them, which compiles and reads the files, is left out."""
    with closing(ready):
        take(ready, 0, images)
        return 1 / measure(ready, _SECONDS, images).cpu_seconds_per_image
