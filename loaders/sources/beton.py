"""Decodes a ``.beton`` with FFCV's compiled loader: every JPEG once, side by side into one buffer.

FFCV's own decoders crop while they decode, so V views cost V decodes. Ours only decodes; the crops of all views are
cut from the same pixels afterwards. This is the one module that imports FFCV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import llvmlite.binding
import numba
import numba.typed
import numpy as np
import torch
from numba import prange, types
from numba.extending import is_jitted

from loaders.beton.file import JPEG
from loaders.numba_options import compiled, kept
from loaders.sources.decoded import DecodedBatch, interleaved
from loaders.sources.images import BetonImages
from loaders.sources.pixel_buffer import PixelBuffer
from loaders.sources.quarantine import Quarantine, decode_or_substitute

# FFCV puts two constants into a numba dict, which no compiled code reads; to fill it numba compiles for seconds, at
# every import anew. A plain dict will do.
_numba_dict, numba.typed.Dict = numba.typed.Dict, dict
try:
    import ffcv.loader.loader
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.libffcv import lib
    from ffcv.loader import Loader
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.state import State
    from ffcv.reader import Reader
    from ffcv.types import ALLOC_TABLE_TYPE
finally:
    numba.typed.Dict = _numba_dict

_BATCHES_AHEAD = 2


def _set_numba_threads(cls: type[Compiler], threads: int) -> None:
    cls.num_threads = threads
    numba.set_num_threads(threads)


# FFCV's version also sets torch's global thread count, from its own thread and at any time: that would change the
# speed and, through the order of summation, the numbers of a training step on the CPU.
Compiler.set_num_threads = classmethod(_set_numba_threads)

# FFCV compiles its loops, and what reads the file, for every loader and in every process anew, half a second each. Ours
# below are compiled once and kept in numba's cache; any other operation's reader is compiled when it is called.
# FFCV's way to compile its reader also makes numba's one type of writable bytes a read-only one, for the whole process:
# code that was compiled for it is not found again, and numba fails when that is collected.
_compile = Compiler.compile
Compiler.compile = lambda code, signature=None: code if is_jitted(code) else _compile(code, signature)
OSCacheManager.compile_reader = lambda manager: read


class _MappedReader(Reader):
    """FFCV's reader, whose tables stay in the file: all ranks share their pages."""

    def read_metadata(self) -> None:
        offset = self.header.itemsize + self.field_descriptors.nbytes
        self.metadata = np.memmap(self._fname, self.metadata_type, "r", offset, (int(self.num_samples),))

    def read_allocation_table(self) -> None:
        self.alloc_table = np.memmap(self._fname, ALLOC_TABLE_TYPE, "r", int(self.header["alloc_table_ptr"]))


class _Manager(OSCacheManager):
    """FFCV's memory map of a file, without what only its page-wise reading needs: Python objects for each image, which
    of ImageNet's number of images take seconds and 600 MB."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.context = reader, OSCacheContext(self)
        order = np.argsort(reader.alloc_table["ptr"], kind="stable")
        self.ptrs, self.sizes = (reader.alloc_table[name][order] for name in ("ptr", "size"))


ffcv.loader.loader.Reader, ffcv.loader.loader.OSCacheManager = _MappedReader, _Manager

# FFCV's decoder, called by name, not through ctypes: numba does not cache code that holds a library's addresses.
llvmlite.binding.load_library_permanently(lib._name)
_pointer, _side, _flag = types.uintp, types.uint32, types.boolean
_imdecode = types.ExternalFunction(
    "imdecode", types.int32(_pointer, types.uint64, _side, _side, _pointer, *[_side] * 6, _flag, _flag)
)


@compiled
def read(address, storage_state):
    """An image's bytes, as FFCV's ``OSCacheManager.compile_reader`` gives them: (file, addresses, sizes)."""
    file, addresses, sizes = storage_state
    return file[address : address + sizes[np.searchsorted(addresses, address)]]


@compiled
def _is_of_size(data, height, width):
    """Whether a JPEG's markers state this size; also False where they are not found without skipping something."""
    position = 2
    while position + 8 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            rows, columns = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return rows[0] * 256 + rows[1] == height and columns[0] * 256 + columns[1] == width
        else:
            position += 2 + data[position + 2] * 256 + data[position + 3]
    return False


@compiled
def _decode(image, storage_state, room):
    """Decodes one image into the room that its pixels take; returns whether libjpeg-turbo had something to say."""
    data = read(image["data_ptr"], storage_state)
    if image["mode"] != JPEG:
        for i in range(len(data)):  # to assign a slice takes numba a second and a half to compile
            room[i] = data[i]
        return False
    height, width = np.uint32(image["height"]), np.uint32(image["width"])
    if not _is_of_size(data, height, width):  # libjpeg-turbo would scale it, and fill the room in part
        return True
    whole = height, width, np.uint32(0), np.uint32(0), np.uint32(1), np.uint32(1), False, False
    return _imdecode(data.ctypes.data, len(data), height, width, room.ctypes.data, *whole) != 0


@compiled
def decode(samples, memory, metadata, storage_state):
    """Decodes the images ``samples`` (B,), one after the other: an operation of FFCV.

    Args:
        samples: positions in ``metadata``.
        memory: (pixels, offsets, failed): pixels uint8 (1, bytes), written, has room for each image from its offset,
            int64 (B,), on; failed bool (B,), written, says whether libjpeg-turbo had something to say.
        metadata: the table of FFCV's ``RGBImageField``.
        storage_state: see ``read``.

    Returns:
        ``memory``.
    """
    pixels, offsets, failed = memory
    for i in range(len(samples)):
        failed[i] = _decode(metadata[samples[i]], storage_state, pixels[0][offsets[i] :])
    return pixels, offsets, failed


@kept(parallel=True)
def decode_in_threads(samples, memory, metadata, storage_state):
    """The same by numba's threads."""
    pixels, offsets, failed = memory
    for i in prange(len(samples)):
        failed[i] = _decode(metadata[samples[i]], storage_state, pixels[0][offsets[i] :])
    return pixels, offsets, failed  # by their names: numba would take writing to an array not read again for dead code


class DecodeOnce(SimpleRGBImageDecoder):
    """FFCV operation: decodes whole images of any size, side by side; its output is the ``memory`` of ``decode``.

    FFCV gives every image of every batch as much memory as the file's largest takes. So nothing is asked of it for the
    pixels; ``_Iterator`` brings the memory that a batch needs.
    """

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, Sequence[AllocationQuery]]:
        state = replace(previous_state, jit_mode=True, shape=(), dtype=np.dtype("u1"))
        nothing = AllocationQuery((0,), torch.uint8)  # of torch's type: FFCV keeps a list, with an item for each batch
        return state, (nothing, AllocationQuery((), np.dtype("i8")), AllocationQuery((), np.dtype("?")))

    def generate_code(self) -> Callable:
        return decode_in_threads if Compiler.num_threads > 1 else decode


class _Iterator(EpochIterator):
    """FFCV's decoding thread, each batch in memory of its own size.

    An exception in it reaches the consumer, who would wait for ever otherwise.
    """

    error: Exception | None = None

    def __init__(self, loader: _OrderedLoader) -> None:
        self._buffers = [PixelBuffer(loader.pinned) for _ in range(loader.batches_ahead + 2)]  # as FFCV has it
        super().__init__(loader, loader.order)

    def run_pipeline(self, batch: int, samples: np.ndarray, slot: int, cuda_event: torch.cuda.Event | None) -> tuple:
        sizes = _pixel_bytes(self.loader.images, samples)
        ends = np.cumsum(sizes)
        ((pixels, offsets, _),) = self.memory_allocations["operation"].values()
        pixels[slot] = self._buffers[slot].take(int(ends[-1])).numpy()[None]
        offsets[slot, : len(samples)] = ends - sizes
        return super().run_pipeline(batch, samples, slot, cuda_event)

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self.error = error
            self.output_queue.put(None)  # FFCV's mark of the end; the consumer takes what is before it

    def __next__(self):
        try:
            return super().__next__()
        except StopIteration:
            if self.error is not None:
                raise self.error from None
            raise


def _pixel_bytes(images: BetonImages, samples: np.ndarray) -> np.ndarray:
    """Bytes that the pixels of images of a file take."""
    return images.heights[samples].astype(np.int64) * images.widths[samples] * 3


class _OrderedLoader(Loader):
    """FFCV's loader, visiting the sample ids in ``order``; set it and ``batch_size`` before each pass.

    Attributes:
        order: uint64 ids.
        images: the file.
        pinned: see ``loaders.sources.pixel_buffer.pixel_memory``.
    """

    order: np.ndarray
    images: BetonImages
    pinned: bool

    def __iter__(self) -> _Iterator:
        if self.code is None:
            self.generate_code()
        return _Iterator(self)


class BetonSource:
    """FFCV's ``Loader`` over a memory-mapped ``.beton``, decoding once per image.

    Args:
        images: the file.
        threads: threads of FFCV's decoder.
        quarantine: where bad images go.
        pinned: whether the pixels go to a GPU, see ``loaders.sources.pixel_buffer.pixel_memory``.
    """

    def __init__(self, images: BetonImages, threads: int, quarantine: Quarantine, pinned: bool = False) -> None:
        self._images, self._quarantine = images, quarantine
        self._iterator = None
        path = str(images.path)
        self._loader = _OrderedLoader(
            path,
            batch_size=1,  # set for each pass
            num_workers=threads,
            pipelines={name: [DecodeOnce()] if name == "image" else None for name in _MappedReader(path).field_names},
            os_cache=True,  # memory-mapped, so ranks share one page cache
            drop_last=False,
            batches_ahead=_BATCHES_AHEAD,
            indices=(),  # for orders of FFCV's own: ``order`` is set in their place
        )
        self._loader.images = images
        self._loader.pinned = pinned

    def batches(self, id_batches: list[np.ndarray]) -> Iterator[DecodedBatch]:
        """Yields the batches in the order given; all of one size but the last, which may be smaller."""
        if not id_batches:
            return
        self._loader.batch_size = len(id_batches[0])
        self._loader.order = np.concatenate(id_batches).astype(np.uint64)
        self._iterator = iter(self._loader)
        try:
            for ids, (memory,) in zip(id_batches, self._iterator, strict=True):
                yield self._collect(ids, *memory)
        finally:
            self.close()

    def close(self) -> None:
        """Ends FFCV's thread, which by itself would decode on until its queue is full, and then wait for ever."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        iterator.close()
        iterator.iter_ixes = iter(())
        while iterator.is_alive():
            while not iterator.output_queue.empty():
                iterator.output_queue.get_nowait()
            iterator.join(timeout=0.01)

    def _collect(self, ids: np.ndarray, pixels: np.ndarray, offsets: np.ndarray, failed: np.ndarray) -> DecodedBatch:
        ids, offsets, pixels = ids.copy(), offsets.copy(), torch.from_numpy(pixels[0])
        # libjpeg-turbo reports mere warnings as failures too: the careful decoder has the last word.
        for i in np.flatnonzero(failed):
            room = _pixel_bytes(self._images, ids[i])
            ids[i], image = decode_or_substitute(self._images, int(ids[i]), self._quarantine)
            if image.numel() > room:  # a larger one stands in
                offsets[i] = len(pixels)
                pixels = torch.cat([pixels, image.reshape(-1)])
            else:
                pixels[offsets[i] : offsets[i] + image.numel()] = image.reshape(-1)
        heights, widths = (sizes[ids].astype(np.int64) for sizes in (self._images.heights, self._images.widths))
        return DecodedBatch(
            pixels=pixels,
            offsets=offsets,
            strides=interleaved(widths),
            heights=heights,
            widths=widths,
            labels=self._images.labels[ids],
            ids=ids,
        )
