"""Decoded images, in the order given: the part of a loader that knows files and decoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from loaders.sources.decoded import DecodedBatch
from loaders.sources.images import Images, open_images, opened_images

__all__ = ["HARDWARE_SHARE", "Images", "Source", "open_images", "opened_images"]

HARDWARE_SHARE = 0.65  # the share of the images that a GPU's JPEG decoder takes beside its cores: NVIDIA's default


class Source(Protocol):
    """Decodes batches of sample ids (none of them empty) in the order given."""

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]: ...

    def close(self) -> None: ...
