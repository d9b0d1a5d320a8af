"""Decoded pictures side by side in one buffer, against the same pictures decoded one by one."""

import numpy as np
import torch

from loaders.quarantine import Quarantine
from loaders.sources import open_pictures
from loaders.sources.arena import Arena
from loaders.sources.folder import FolderSource


def fill(arena: Arena, sizes: list[tuple[int, int]], value: int) -> list[torch.Tensor]:
    pictures = []
    for height, width in sizes:
        room = arena.allocate(height * width * 3)
        room[:] = value + len(pictures)
        pictures.append(torch.from_numpy(room).view(height, width, 3))
    return pictures


def test_batches_of_any_size_come_out_whole_and_use_the_buffer_again():
    arena, labels = Arena(), np.arange(3)
    places = []
    for value, sizes in enumerate([[(3, 4)] * 3, [(3, 4)] * 3, [(9, 9), (1, 1), (5, 2)], [(2, 2)] * 3]):
        batch = arena.collect(fill(arena, sizes, 10 * value), labels, labels)
        for i, (picture, size) in enumerate(zip(batch.pictures, sizes, strict=True)):
            assert picture.shape == (*size, 3) and (picture == 10 * value + i).all()
        places.append(batch.pixels.data_ptr())
    assert places[0] == places[1] and places[2] == places[3]


def test_room_that_a_bad_picture_took_spoils_nothing():
    arena, one = Arena(), np.arange(1)
    arena.collect(fill(arena, [(4, 4)], 1), one, one)
    arena.allocate(40)  # a decoder that gave up
    batch = arena.collect(fill(arena, [(4, 4)], 2), one, one)
    assert (batch.pictures[0] == 2).all()


def test_a_pass_that_was_left_early_does_not_write_into_the_next(picture_folder):
    pictures = open_pictures(picture_folder)
    source = FolderSource(pictures, 4, Quarantine(pictures.path, len(pictures), 0.05))
    batches = np.split(np.arange(60), 5)
    for _ in range(20):
        next(source.batches(batches))  # the generator is closed here, its decoders under way
        batch = next(source.batches(batches[::-1]))
        for i, picture in zip(batch.ids.tolist(), batch.pictures, strict=True):
            assert torch.equal(picture, pictures.decode(i))
    source.close()
