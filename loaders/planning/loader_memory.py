"""The memory that a loader's own buffers take in one rank, by formula; Python and PyTorch themselves come on top."""

from __future__ import annotations

from dataclasses import dataclass

from loaders.planning.data_facts import DataFacts
from loaders.recipe import MultiCrop
from loaders.sources.pixel_buffer import rounded

# Batches of views alive at a time: three are ahead in the loader, done or being made, and one is in hand.
_VIEW_BATCHES = 4
# FFCV's buffers, of a batch each: two wait, one is in hand, one is being decoded.
_FFCV_BATCHES = 4
# The folder source: two arenas, and the first two batches, which were decoded beside them into memory that the C
# library keeps; half a batch, since batches differ.
_FOLDER_BATCHES = 4.5
# DALI: two batches scheduled, as it decodes them; of the one before, what they are copied to, and as much for the next.
_DALI_BATCHES = 4
_ENCODED_BATCHES = 4  # of the stored bytes, by those who read ahead: two batches, and the decoder's copy of them
_DALI_POOLS = 256 << 20  # what DALI keeps besides, whatever the batch; measured
_FFCV_CODE = 144 << 20  # numba, which compiles FFCV's pipeline, and what it makes; measured
_CROP_CODE = 160 << 20  # the CPU engine, and numba compiling it the first time: 105 measured, room for other builds
_MEMORY_CHUNK = 1024  # images that the memory source decodes before it moves them to the GPU
# The C library returns larger blocks at once and keeps smaller ones for later: as much again, measured.
_KEPT_BELOW = 32 << 20


@dataclass(frozen=True)
class LoaderMemory:
    """Bytes that a rank's loader does not exceed.

    Attributes:
        pixels: for decoded images, on the host.
        views: for finished crops, on the host; 0 where a GPU cuts them.
        work: for what decoders and threads need besides, on the host.
        kept: freed memory that the C library holds back.
        on_gpu: for decoded images and finished crops on the rank's GPU, without what a decoder that runs there keeps
            for itself; 0 where the CPU cuts the crops.
    """

    pixels: int
    views: int
    work: int
    kept: int
    on_gpu: int

    @property
    def total(self) -> int:
        """Bytes on the host."""
        return self.pixels + self.views + self.work + self.kept


def loader_memory(
    source: str,
    facts: DataFacts,
    recipe: MultiCrop,
    images: int,
    threads: int,
    on_gpu: bool = False,
    view_bytes: int = 4,
) -> LoaderMemory:
    """Bounds the memory of one rank's training loader.

    Args:
        source: one of ``loaders.sources.choice.SOURCES``, not ``"auto"``.
        images: images in a batch of this rank.
        threads: host threads of this rank.
        on_gpu: whether the crops are cut on a GPU.
        view_bytes: bytes of a value of the views.
    """
    views = [images * spec.size**2 * 3 * view_bytes for spec in recipe.views]
    there = _pixels_on_gpu(source, facts, images) + _VIEW_BATCHES * sum(views) if on_gpu else 0
    here = [] if on_gpu else views
    return LoaderMemory(
        pixels=_pixels(source, facts, images, on_gpu),
        views=_VIEW_BATCHES * sum(here),
        work=_work(source, facts, recipe, images, threads, on_gpu),
        kept=_VIEW_BATCHES * sum(size for size in here if size < _KEPT_BELOW),
        on_gpu=there,
    )


def _pixels(source: str, facts: DataFacts, images: int, on_gpu: bool) -> int:
    batch = facts.batch_pixels(images)
    if source == "memory":  # while it is put together
        chunk = facts.batch_pixels(min(_MEMORY_CHUNK, facts.images))
        return 2 * chunk if on_gpu else chunk + 2 * facts.decoded
    if source == "ffcv":
        return _FFCV_BATCHES * (rounded(batch) if on_gpu else batch)
    if source == "folder":
        return 2 * (rounded(batch) + batch) if on_gpu else int(_FOLDER_BATCHES * batch)
    return 0 if on_gpu else _DALI_BATCHES * batch  # all but a few odd images are decoded there


def _pixels_on_gpu(source: str, facts: DataFacts, images: int) -> int:
    if source == "memory":  # while it is put together
        return 2 * facts.decoded
    copies = {"dali": _DALI_BATCHES, "nvjpeg": 3}.get(source, 1)  # nvJPEG: decoded, side by side, and the one before
    return copies * facts.batch_pixels(images)


def _work(source: str, facts: DataFacts, recipe: MultiCrop, images: int, threads: int, on_gpu: bool) -> int:
    work = {"ffcv": _FFCV_CODE, "dali": _DALI_POOLS}.get(source, 0)
    if source in ("dali", "nvjpeg"):
        work += _ENCODED_BATCHES * images * facts.stored // facts.images
    if on_gpu:
        return work
    if source == "dali":  # a thread decodes beside the image's place
        work += threads * facts.image_most
    largest_view = max(spec.size for spec in recipe.views) ** 2 * 3
    # A thread's: a box copied out of its image, resized in two passes, and two views in float32.
    return work + _CROP_CODE + threads * (2 * facts.image_most + 10 * largest_view)
