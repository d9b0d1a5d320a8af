"""This project's loaders as contenders; the iterators are like those of ``baselines``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from loaders.loader import make_loader
from loaders.sources import open_images
from loaders.sources.choice import open_source
from loaders.sources.quarantine import Quarantine
from tools.benchmark.workload import Workload

_PASS = 20_000  # images


def full_path(work: Workload, source: str) -> Iterator[int]:
    """Decode, crops, colour, normalise."""
    path = work.beton if source == "ffcv" else work.data
    loader = make_loader(
        path,
        work.recipe,
        work.batch_size,
        source=source,
        device=work.device,
        threads=work.threads,
        samples=work.long_pass(_PASS),
    )
    while True:
        for batch in loader:
            yield len(batch.ids)


def decode_only(work: Workload, source: str) -> Iterator[int]:
    """What is left to the host when the crops are cut on a GPU."""
    images = open_images(work.beton if source == "ffcv" else work.data)
    quarantine = Quarantine(images.path, len(images), max_bad=0.05)
    opened, _ = open_source(images, source, work.threads, quarantine, torch.device(work.device))
    generator = np.random.default_rng(0)
    while True:
        ids = generator.permutation(work.long_pass(_PASS))
        for batch in opened.batches(np.split(ids, range(work.batch_size, len(ids), work.batch_size))):
            yield len(batch.ids)


def engine_on_gpu(work: Workload) -> Iterator[int]:
    """The crops alone, of one decoded batch that lies on the GPU."""
    from loaders.multicrop.device import DeviceMultiCrop

    device = torch.device(work.device)
    images = open_images(work.data)
    source, _ = open_source(images, "folder", work.threads, Quarantine(images.path, len(images), 0.05))
    decoded = next(source.batches([np.resize(np.arange(len(images)), work.batch_size)])).to(device)
    engine = DeviceMultiCrop(work.recipe, device, torch.bfloat16)
    for epoch in itertools.count():
        engine(decoded, 0, epoch)
        torch.cuda.synchronize()
        yield work.batch_size
