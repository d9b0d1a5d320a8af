"""How fast one core decodes and crops: measured on some of the dataset's own images."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from loaders.multicrop.cpu import CpuMultiCrop
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


def decode_rate(images: Images, facts: DataFacts, source: str, quarantine: Quarantine) -> float:
    """Images that a source decodes in a second of one core's time, on the CPU with one thread.

    Processor time of all threads is counted, not time on the clock: others may use the machine, too.
    """
    batch = int(np.clip(_MOST_BYTES // facts.image_most // 4, 1, _BATCH))
    chosen = _some(len(images), _IMAGES // _BATCH * batch)
    id_batches = [chosen[i : i + batch] for i in range(0, len(chosen), batch)]
    opened, _ = open_source(images, source, 1, quarantine, _CPU)

    def decode() -> None:
        for _ in opened.batches(id_batches):
            pass

    try:
        return len(chosen) / _seconds(decode)
    finally:
        opened.close()


def crop_rate(images: Images, facts: DataFacts, recipe: MultiCrop, quarantine: Quarantine) -> float:
    """Decoded images of which the CPU engine cuts all views in a second of one core's time."""
    chosen = _some(len(images), int(np.clip(_MOST_BYTES // facts.image_most, 1, _CROPPED)))
    ids, decoded = zip(*(decode_or_substitute(images, int(i), quarantine) for i in chosen), strict=True)
    ids = np.array(ids)
    batch = packed(list(decoded), images.labels[ids], ids)
    engine = CpuMultiCrop(recipe, 1)
    try:
        return len(ids) / _seconds(lambda: engine(batch, 0, 0))
    finally:
        engine.close()


def _some(count: int, wanted: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


def _seconds(work: Callable[[], None]) -> float:
    """Processor seconds of the fastest of several runs; the first one compiles and reads the files, uncounted."""
    work()
    best, start = float("inf"), time.monotonic()
    while best == float("inf") or time.monotonic() - start < _SECONDS:
        before = time.process_time()
        work()
        best = min(best, time.process_time() - before)
    return best
