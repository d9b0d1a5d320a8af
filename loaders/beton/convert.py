"""Converts images to one ``.beton`` file: encoded in threads, written in order, continued after a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from loaders.beton.encoding import Storage, StoredImage, encode_image
from loaders.beton.file import BetonFile
from loaders.beton.journal import ConversionJournal, quarantine_path, remove_leftovers
from loaders.beton.writer import SKIPPED
from loaders.datasets.split import Split
from loaders.errors import UserError
from loaders.image_reading import BadImage
from loaders.progress import Progress

FORMAT = 1  # raise it when the stored bytes of an image change
COMMIT_SECONDS = 2.0
_TASK = 8  # images a thread takes at once
_LOOK_AHEAD = 3  # tasks for each thread that may be done or under way
# The place of the images failed, not one image: better to stop, and go on later, than to leave out the rest.
_STORAGE_FAILED = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        file: the ``.beton`` file.
        images: images in it.
        bytes: its size.
        skipped: images left out; ``quarantine`` lists them, with reasons.
        quarantine: that list, "" if nothing was left out.
        seconds: time this call took.
        images_per_second: rate of this call, over the images it looked at.
        resumed: images, in the file or left out, that an earlier call had dealt with.
        finished_before: the file was there, written from the same images and options, and was left as it is.
        empty_classes: classes without an image in the file.
    """

    file: str
    images: int
    bytes: int
    skipped: int
    quarantine: str
    seconds: float
    images_per_second: float
    resumed: int
    finished_before: bool
    empty_classes: list[str]


def convert(split: Split, target: str | os.PathLike, storage: Storage | None = None, threads: int = 0) -> Report:
    """Writes a split as a ``.beton`` file.

    The file's bytes depend on the split and the storage alone, not on threads, and not on whether the conversion was
    killed and started again in between. A finished file of the same images and storage is left as it is.

    Args:
        split: images and labels.
        target: the file to write; its folder is made.
        storage: how images are stored; the defaults of ``Storage`` if None, with ``raw`` as the split has it.
        threads: encoding threads; 0 takes one for each core that may be used.

    Raises:
        UserError: no readable image, no room or right to write, or a finished file of something else in the way.
    """
    start = time.monotonic()
    if threads < 0:
        raise UserError(f"--threads {threads} is negative; 0 takes one for each core that may be used")
    target = Path(target)
    storage = Storage(raw=split.raw) if storage is None else storage
    older, source = _sources(split, storage)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _check_same(target, (older, source))
            remove_leftovers(target)
            return _report(split, target, time.monotonic() - start, 0.0, len(split), before=True)
        journal = ConversionJournal(target, _digest(source, *_encoder()), len(split))
        try:
            return _convert(split, journal, storage, threads or len(os.sched_getaffinity(0)), source)
        finally:
            journal.close()
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror or error}; free some room or choose another folder, and "
            "start the same command again: in the same folder it goes on where it stopped"
        ) from error


def _convert(split: Split, journal: ConversionJournal, storage: Storage, threads: int, source: str) -> Report:
    writer, found = journal.writer, journal.writer.count
    if journal.other_key:
        print(f"{journal.partial} was begun from other images or options; starting over", file=sys.stderr)
    elif found:
        print(f"{journal.partial} holds {found} of {len(split)} images; going on", file=sys.stderr)
    with Progress(journal.target.name, "images", len(split), found) as progress:
        _store_images(split, journal, storage, threads, progress)
    if (writer.rows["mode"] == SKIPPED).all():
        journal.abandon()
        raise UserError(f"none of the {len(split)} images can be read; {journal.quarantine} says why")
    writer.finish(split.labels, split.names, split.classes, source)
    journal.publish()
    return _report(split, journal.target, progress.seconds, progress.rate, found)


def _store_images(split: Split, journal: ConversionJournal, storage: Storage, threads: int, progress: Progress) -> None:
    committed = time.monotonic()
    try:
        for image in _encoded(split, storage, journal.writer.count, threads):
            if isinstance(image, StoredImage):
                journal.writer.add(image.data, image.height, image.width, image.mode)
            else:
                journal.quarantine_image(split.names[journal.writer.count], image)
            progress.advance(1)
            if time.monotonic() - committed >= COMMIT_SECONDS:
                journal.commit()
                committed = time.monotonic()
    finally:
        journal.commit()


def _sources(split: Split, storage: Storage) -> tuple[str, str]:
    """What a file is written from, as older versions had it and as it is: with the size and time of every file, since
    one that is written over in place leaves its folder's time as it was."""
    parts = split.fingerprint, repr(storage), FORMAT
    older = _digest(*parts)
    return older, _digest(*parts, hashlib.sha256(split.stats().tobytes()).hexdigest()) if split.stats else older


def _check_same(target: Path, sources: tuple[str, str]) -> None:
    """Refuses a finished file that is not the one that would be written."""
    try:
        same = BetonFile(target).source in sources
    except UserError:
        same = False
    if not same:
        raise UserError(
            f"{target} exists and was written from other images or options; remove it or give another --out"
        )


def _report(split: Split, target: Path, seconds: float, rate: float, resumed: int, before: bool = False) -> Report:
    file, quarantine = BetonFile(target), quarantine_path(target)
    counts = np.bincount(file.labels[file.labels >= 0], minlength=len(split.classes))
    return Report(
        file=str(target),
        images=len(file),
        bytes=target.stat().st_size,
        skipped=len(split) - len(file),
        quarantine=str(quarantine) if quarantine.exists() else "",
        seconds=seconds,
        images_per_second=rate,
        resumed=resumed,
        finished_before=before,
        empty_classes=[name for name, count in zip(split.classes, counts, strict=False) if not count],
    )


def _encoded(split: Split, storage: Storage, first: int, threads: int) -> Iterator[StoredImage | str]:
    """The images from ``first`` on, in order: each encoded, or the reason why it cannot be."""
    tasks = iter(range(first, len(split), _TASK))
    pending: deque[Future] = deque()
    # Pillow warns of oddities and large sizes that are read correctly all the same.
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")
        try:
            while True:
                while len(pending) < _LOOK_AHEAD * threads and (begin := next(tasks, None)) is not None:
                    pending.append(pool.submit(_encode_task, split, storage, begin))
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _encode_task(split: Split, storage: Storage, begin: int) -> list[StoredImage | str]:
    return [_encode_one(split, storage, index) for index in range(begin, min(begin + _TASK, len(split)))]


def _encode_one(split: Split, storage: Storage, index: int) -> StoredImage | str:
    try:
        return encode_image(split.load(index), storage)
    except BadImage as error:
        return str(error)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise UserError(
                f"{split.names[index]} was there when the images were listed and is gone; start again"
            ) from error
        if error.errno in _STORAGE_FAILED:
            raise UserError(
                f"{split.names[index]} cannot be read: {error.strerror or error}; nothing that was done is lost, "
                "start the same command again"
            ) from error
        return f"cannot be read: {error.strerror or error}"


def _encoder() -> tuple[str, ...]:
    """What the bytes of a newly encoded image depend on beside pixels and options."""
    return PIL.__version__, str(features.version("jpg")), str(features.version("libjpeg_turbo"))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
