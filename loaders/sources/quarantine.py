"""Images that cannot be decoded: reported once, listed in a file, counted against a limit, replaced by a neighbour."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import torch

from loaders.errors import UserError
from loaders.image_reading import BadImage
from loaders.order import neighbour
from loaders.sources import Images
from loaders.sources.decode import Allocate, fresh

_log = logging.getLogger("loaders")
# A neighbour must be the same in every epoch, run and rank, whatever the run's seed.
_SEED = 0


class Quarantine:
    """The list of a dataset's bad images.

    Args:
        data: name of the dataset, the first column of the list.
        count: images in the dataset.
        max_bad: share of them that may be bad; one more stops the run.
        path: the list's file, shared by all ranks and restarts; None keeps it in memory.
    """

    def __init__(self, data: Path, count: int, max_bad: float, path: Path | None = None) -> None:
        self.data, self.count, self.max_bad, self.path = data, count, max_bad, path
        self._lines: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, sample: int, name: str, reason: str) -> None:
        """Lists a bad image.

        Raises:
            UserError: more than ``max_bad`` of the dataset is bad, or all of it.
        """
        with self._lock:
            if sample not in self._lines:
                label = " ".join(name.split()) or "without a file name"
                self._lines[sample] = f"{self.data}\t{sample}\t{label}\t{' '.join(reason.split())}"
                _log.warning(
                    "cannot decode image %d (%s) of %s: %s; another takes its place", sample, label, self.data, reason
                )
                self._write(self._lines[sample])
            if len(self._lines) > self.max_bad * self.count or len(self._lines) == self.count:
                raise UserError(self._too_many())

    def _write(self, line: str) -> None:
        if self.path is None:
            return
        try:
            # Another rank, or the run before a restart, may have listed it.
            with open(self.path, "a+b") as file:
                file.seek(0)
                encoded = line.encode("utf-8", "surrogateescape")  # names need not be valid UTF-8
                if encoded not in file.read().split(b"\n"):
                    file.write(encoded + b"\n")
        except OSError as error:  # the list is not worth the run
            _log.warning("%s cannot be written (%s)", self.path, error.strerror)

    def _too_many(self) -> str:
        listed = (
            f"see {self.path}" if self.path else "; ".join(line.replace("\t", " ") for line in self._lines.values())
        )
        return (
            f"{len(self._lines)} of the {self.count} images in {self.data} cannot be decoded, and the share allowed "
            f"(max_bad) is {self.max_bad:g}: {listed}"
        )


def decode_or_substitute(
    images: Images, sample: int, quarantine: Quarantine, allocate: Allocate = fresh
) -> tuple[int, torch.Tensor]:
    """Decodes an image, or the first decodable one of its neighbours (``loaders.order.neighbour``).

    Args:
        allocate: gives the room for the pixels.

    Returns:
        The id of the image that was decoded and its pixels, uint8 (H, W, 3).

    Raises:
        UserError: the quarantine has passed its limit.
    """
    chosen, attempt = sample, 0
    while True:
        try:
            return chosen, images.decode(chosen, allocate)
        except BadImage as error:
            quarantine.add(chosen, images.names[chosen], str(error))
        # Terminates: the quarantine raises at the latest when every image is in it.
        chosen, attempt = neighbour(len(images), _SEED, sample, attempt), attempt + 1
