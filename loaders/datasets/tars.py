"""Images in tar files, read where they lie: WebDataset's shards, a tar of one tar a class, a tar of a tree of images.

What a tar means is told by its members, hidden ones apart:

* Tars alone: each inner tar is a class, named after it, as in ``ILSVRC2012_img_train.tar``.
* Shards, where there are ``.cls`` or ``.json`` files, or several tars: images are named ``key.jpg`` (or another kind of
  image), the label of each is the whole number in ``key.cls``, or ``label`` or ``cls`` in ``key.json``. All images have
  one or none has. A file ``classnames.txt`` beside the shards, a line a class, names the classes.
* Else what the folder would mean that the tar unpacks to, folders around all images left out: class folders, or
  images without labels where an image lies beside the folders.

Images are ordered by class and then by name, as in class folders. What is no image and none of these files counts for
nothing.
"""

from __future__ import annotations

import gc
import json
import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from loaders.datasets.folder import is_hidden, is_image_name
from loaders.datasets.split import MOST_LABELS, Split
from loaders.datasets.tar_index import PackedNames, TarIndex, kept_index, tars_identity
from loaders.datasets.tar_reading import Member, TarFile
from loaders.errors import UserError
from loaders.progress import Progress

LAYOUT = (
    "tars are shards of key.jpg and key.cls or key.json files (name-{000000..000146}.tar), a tar of one tar a class, "
    "or a tar of a tree of images"
)
CLASS_NAMES = "classnames.txt"
_Item = TypeVar("_Item", TarFile, Member)
_THREADS = 4  # they wait for the disk, or for a server's
_LARGE = 1 << 30  # bytes of tars that may take a while
_LONGEST_SIDECAR = 1 << 20


@dataclass
class _Found:
    """Images of a tar, as they are found.

    Attributes:
        names: of each image.
        offsets, sizes: its bytes in the file.
        labels: of each, -1 where there is none; empty where the tar cannot tell.
        is_shard: whether files beside the images are WebDataset's.
    """

    names: list[str] = field(default_factory=list)
    offsets: array = field(default_factory=lambda: array("q"))
    sizes: array = field(default_factory=lambda: array("q"))
    labels: array = field(default_factory=lambda: array("q"))
    is_shard: bool = False

    def add(self, member: Member, label: int | None = None) -> None:
        self.names.append(member.name)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)
        if label is not None:
            self.labels.append(label)


def tar_split(tars: Sequence[Path], where: Path) -> Split:
    """The images of some tars as a dataset; the first time all headers are read.

    Args:
        tars: the files, in order.
        where: what they were asked for by, for sentences.

    Raises:
        UserError: a tar that is compressed, cut off or damaged, or whose labels cannot be told, see above.
    """
    names_file = tars[0].parent / CLASS_NAMES
    class_names = _read_class_names(names_file) if names_file.is_file() else []
    identity = tars_identity(tars, class_names)
    index = kept_index(identity, lambda: _build(tars, where, class_names))
    labels = np.ascontiguousarray(index.labels, np.int64)
    read = TarReader(tars, index)
    source, sizes = f"tars {identity}", np.ascontiguousarray(index.sizes, np.int64)
    return Split(index.names, labels, index.classes, read, source, sizes=lambda: sizes)


class TarReader:
    """Reads the images of an index from its tars; from several threads at once.

    Each read opens its file: many shards would take more open files than a process may have, and one that is written
    over shall be noticed.
    """

    def __init__(self, tars: Sequence[Path], index: TarIndex) -> None:
        self._tars, self._index = [str(tar) for tar in tars], index
        self._stats = [_stat(os.stat(tar)) for tar in tars]

    def __call__(self, index: int) -> bytes:
        number, size = int(self._index.tars[index]), int(self._index.sizes[index])
        descriptor = os.open(self._tars[number], os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _stat(os.fstat(descriptor)) != self._stats[number]:
                raise UserError(f"{self._tars[number]} was changed while it was read; start again")
            return os.pread(descriptor, size, int(self._index.offsets[index]))
        finally:
            os.close(descriptor)


def _stat(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _build(tars: Sequence[Path], where: Path, class_names: list[str]) -> TarIndex:
    """Reads all headers."""
    with ExitStack() as stack, _without_collection():
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="tars"))
        files = [stack.enter_context(TarFile(tar)) for tar in tars]
        shown = sum(file.size for file in files) >= _LARGE
        if len(files) == 1:
            members = list(_visible(files[0].members()))
            inner = [member for member in members if member.name.lower().endswith(".tar")]
            if inner:
                return _tar_of_tars(files[0], members, inner, pool, shown)
            found = [_samples(files[0], members)]
        else:
            parts = _read_each(lambda file: _samples(file, _visible(file.members())), files, pool)
            found = list(_counted(parts, len(files), shown))
    if not any(part.names for part in found):
        raise UserError(f"{where} holds no image; {LAYOUT}")
    if len(found) > 1 or found[0].is_shard:
        return _shards(found, tars, where, class_names)
    return _tree(found[0])


def _visible(members: Iterator[Member]) -> Iterator[Member]:
    for member in members:
        for part in member.name.split("/"):
            if is_hidden(part):
                break
        else:
            yield member


def _read_each(read: Callable[[_Item], _Found], items: Sequence[_Item], pool: ThreadPoolExecutor) -> Iterator[_Found]:
    """What ``read`` finds in each tar, in turn. As soon as one has waited for its disk longer than it took to read it,
    the rest are read by several threads; where nothing waits they would take twice as long, for want of the lock."""
    for number, item in enumerate(items):
        start, busy = time.perf_counter(), time.thread_time()
        yield read(item)
        if time.thread_time() - busy < (time.perf_counter() - start) / 2:
            yield from pool.map(read, items[number + 1 :])
            return


@contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of small objects are made, none in a circle: to look for circles takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _counted(tasks: Iterator[_Found], count: int, shown: bool) -> Iterator[_Found]:
    with Progress("index of the tars", "tars", count) if shown else nullcontext() as progress:
        for found in tasks:
            if progress:
                progress.advance(1)
            yield found


def _samples(file: TarFile, members: Sequence[Member] | Iterator[Member]) -> _Found:
    """A tar's images, in its order; with the labels of the files beside them."""
    found, sidecars = _Found(), {}
    for member in members:
        ending = member.name[-5:].lower()
        if ending == ".json" or ending.endswith(".cls"):
            sidecars[member.name] = member
        elif is_image_name(member.name):
            found.add(member)
        elif member.name.lower().endswith(".tar"):
            raise UserError(f"{file.path} is one of several tars and holds the tar {member.name}: give it alone")
    _refuse_twice(found.names, file.path)
    if sidecars:
        found.is_shard = True
        _label_by(sidecars, found, file)
    return found


def _refuse_twice(names: Sequence[str], tar: Path) -> None:
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise UserError(f"{tar} holds {twice} twice, and nobody can say which of them is meant: write it again")


def _label_by(sidecars: dict[str, Member], found: _Found, file: TarFile) -> None:
    """Gives each image the label of its key, which goes up to the first dot of a file's name, as in WebDataset."""
    labels: dict[str, int | None] = {}
    for name, member in sidecars.items():
        key, kind = _key(name)
        if kind not in ("cls", "json"):
            continue
        label = _label(file, member, kind)
        if labels.get(key) is not None and label not in (None, labels[key]):
            raise UserError(f"{file.path} has two labels for {key}, {labels[key]} and {label}")
        labels[key] = labels.get(key) if label is None else label
    keys: dict[str, str] = {}
    for name in found.names:
        key, kind = _key(name)
        if key in keys or "." in kind and any(label is not None for label in labels.values()):
            what = f"beside {keys[key]}" if key in keys else "whose name has two dots"
            raise UserError(
                f"{file.path} holds the image {name} {what}: WebDataset's key ends at a name's first dot, and a label "
                "is one image's; write the shards with one image a key"
            )
        keys[key] = name
        label = labels.get(key)
        found.labels.append(-1 if label is None else label)
    alone = next((key for key, label in labels.items() if label is not None and key not in keys), None)
    if alone is not None:
        raise UserError(f"{file.path} holds a label for {alone}, but no image of this name (.jpg, .png, .webp, ...)")


def _key(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return folder + slash + stem, kind.lower()


def _label(file: TarFile, member: Member, kind: str) -> int | None:
    """The label in a ``.cls`` or ``.json`` file; None where the latter has none."""
    text = file.read(member.offset, min(member.size, _LONGEST_SIDECAR))
    try:
        if kind == "cls":
            value = int(text)
        else:
            about = json.loads(text)
            value = next((about[name] for name in ("label", "cls") if name in about), None)
            if value is None:
                return None
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < MOST_LABELS:
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise UserError(
            f"{file.path} holds {member.name}, in which no label can be read: it must be a whole number from 0 on"
        ) from None
    return value


def _shards(found: list[_Found], tars: Sequence[Path], where: Path, class_names: list[str]) -> TarIndex:
    labelled = [part for part in found if any(label >= 0 for label in part.labels)]
    if labelled:
        for part, tar in zip(found, tars, strict=True):
            named = zip(part.names, part.labels or [-1] * len(part.names), strict=True)
            missing = next((name for name, label in named if label < 0), None)
            if missing is not None:
                raise UserError(
                    f"{tar} holds the image {missing} without a label, and others have one: take out those without, or "
                    "all labels"
                )
    names = [name for part in found for name in part.names]
    if len(set(names)) < len(names):  # shards that count from 0 on each
        names = [f"{tar.name}/{name}" for part, tar in zip(found, tars, strict=True) for name in part.names]
    numbers = np.repeat(np.arange(len(found)), [len(part.names) for part in found])
    offsets, sizes = (np.concatenate([getattr(part, name) for part in found]) for name in ("offsets", "sizes"))
    labels = np.concatenate([part.labels for part in found]) if labelled else np.full(len(names), -1)
    if labelled and class_names and labels.max() >= len(class_names):
        raise UserError(f"{where} has the label {labels.max()}, and its {CLASS_NAMES} has {len(class_names)} lines")
    return _ordered(numbers, offsets, sizes, labels, names, class_names if labelled else [])


def _tree(found: _Found) -> TarIndex:
    """One tar as the folder that it unpacks to."""
    names, around = found.names, ""
    if all("/" in name for name in names):
        around = os.path.commonpath([os.path.dirname(name) for name in names])
    if around:
        names = [name[len(around) + 1 :] for name in names]
    classes: list[str] = []
    labels = np.full(len(names), -1)
    if all("/" in name for name in names):
        classes = sorted({name.split("/", 1)[0] for name in names})
        place = {name: label for label, name in enumerate(classes)}
        labels = np.array([place[name.split("/", 1)[0]] for name in names])
    return _ordered(np.zeros(len(names), int), np.array(found.offsets), np.array(found.sizes), labels, names, classes)


def _tar_of_tars(
    file: TarFile, members: list[Member], inner: list[Member], pool: ThreadPoolExecutor, shown: bool
) -> TarIndex:
    beside = next((member.name for member in members if is_image_name(member.name)), None)
    if beside is not None:
        raise UserError(f"{file.path} holds the image {beside} beside tars, so its classes cannot be told: unpack it")
    inner.sort(key=lambda member: member.name.rpartition("/")[2][:-4])
    classes = [member.name.rpartition("/")[2][:-4] for member in inner]
    _refuse_twice(classes, file.path)

    def read(member: Member) -> _Found:
        found = _Found()
        for image in _visible(file.members(member.offset, member.size, member.name)):
            if is_image_name(image.name):
                found.add(image)
            elif image.name.lower().endswith(".tar"):
                raise UserError(
                    f"{file.path}/{member.name} is a tar in a tar and holds the tar {image.name}: unpack the outer tar"
                )
        _refuse_twice(found.names, file.path / member.name)
        return found

    parts = list(_counted(_read_each(read, inner, pool), len(inner), shown))
    counts = [len(part.names) for part in parts]
    if not any(counts):
        raise UserError(f"there is no image in any of the {len(inner)} tars of {file.path}; {LAYOUT}")
    labels = np.repeat(np.arange(len(parts)), counts)
    offsets, sizes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("offsets", "sizes"))
    names = [f"{name}/{image}" for name, part in zip(classes, parts, strict=True) for image in part.names]
    return _ordered(np.zeros(len(labels), int), offsets, sizes, labels, names, classes)


def _ordered(
    tars: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, labels: np.ndarray, names: list[str], classes: list[str]
) -> TarIndex:
    """The index, by class and then by name."""
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order], append=-2))
    start = 0
    for end in (ends + 1).tolist():  # a class at a time, so that few keys are in memory at once
        group = order[start:end].tolist()
        order[start:end] = sorted(group, key=lambda i: names[i].replace("/", "\0"))  # as parts of a path are compared
        start = end
    packed = PackedNames.of([names[i] for i in order.tolist()])
    return TarIndex(tars[order], offsets[order], sizes[order], labels[order], packed, classes)


def _read_class_names(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
