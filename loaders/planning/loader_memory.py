"""The memory that a loader's own buffers take in one rank, by formula; Python and PyTorch themselves come on top."""

from __future__ import annotations

from dataclasses import dataclass

from loaders.planning.data_facts import DataFacts
from loaders.recipe import MultiCrop

# Batches of views alive at a time: three are ahead in the loader, done or being made, and one is in hand.
_VIEW_BATCHES = 4
# FFCV's slots, allocated for as many batches: two wait, one is in hand, one is being decoded.
_SLOT_BATCHES = 4
# The folder source: two arenas, each with a quarter of room, and the first two batches, which were decoded beside them
# into memory that the C library keeps.
_FOLDER_BATCHES = 4.5
# DALI: two batches scheduled and one in hand, each as it was decoded and padded to one size.
_DALI_BATCHES = 3
_DALI_POOLS = 256 << 20  # what DALI keeps besides, whatever the batch; measured
_FFCV_CODE = 144 << 20  # numba, which compiles FFCV's pipeline, and what it makes; measured
_CROP_CODE = 160 << 20  # the CPU engine, and numba compiling it the first time: 105 measured, room for other builds
_MEMORY_CHUNK = 1024  # images that the memory source decodes before it moves them to the GPU
# The C library returns larger blocks at once and keeps smaller ones for later: as much again, measured.
_KEPT_BELOW = 32 << 20


@dataclass(frozen=True)
class LoaderMemory:
    """Bytes that a rank's loader does not exceed on the host.

    Attributes:
        pixels: for decoded images.
        views: for finished crops; 0 where a GPU cuts them.
        work: for what decoders and threads need besides.
        kept: freed memory that the C library holds back.
    """

    pixels: int
    views: int
    work: int
    kept: int

    @property
    def total(self) -> int:
        return self.pixels + self.views + self.work + self.kept


def loader_memory(
    source: str, facts: DataFacts, recipe: MultiCrop, images: int, threads: int, on_gpu: bool = False
) -> LoaderMemory:
    """Bounds the host memory of one rank's training loader.

    Args:
        source: one of ``loaders.sources.choice.SOURCES``, not ``"auto"``.
        images: images in a batch of this rank.
        threads: host threads of this rank.
        on_gpu: whether the crops are cut on a GPU.
    """
    views = [] if on_gpu else [images * spec.size**2 * 3 * 4 for spec in recipe.views]
    return LoaderMemory(
        pixels=_pixels(source, facts, images, on_gpu),
        views=_VIEW_BATCHES * sum(views),
        work=_work(source, facts, recipe, threads, on_gpu),
        kept=_VIEW_BATCHES * sum(size for size in views if size < _KEPT_BELOW),
    )


def _pixels(source: str, facts: DataFacts, images: int, on_gpu: bool) -> int:
    if source == "ffcv":
        return _SLOT_BATCHES * images * facts.image_most
    if source == "memory":  # while it is put together
        chunk = facts.batch_pixels(min(_MEMORY_CHUNK, facts.images))
        return 2 * chunk if on_gpu else chunk + 2 * facts.decoded
    if on_gpu:  # the other two decode there, all but a few odd images
        return 0
    if source == "folder":
        return int(_FOLDER_BATCHES * facts.batch_pixels(images))
    height, width = facts.largest_size
    return _DALI_BATCHES * (facts.batch_pixels(images) + images * height * width * 3)


def _work(source: str, facts: DataFacts, recipe: MultiCrop, threads: int, on_gpu: bool) -> int:
    decoder = {"ffcv": _FFCV_CODE, "dali": _DALI_POOLS}.get(source, 0)
    if on_gpu:
        return decoder
    largest_view = max(spec.size for spec in recipe.views) ** 2 * 3
    # A thread's: a box copied out of its image, resized in two passes, and two views in float32.
    return decoder + _CROP_CODE + threads * (2 * facts.image_most + 10 * largest_view)
