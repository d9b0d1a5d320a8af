"""Decoded images side by side in one buffer, against the same images decoded one by one."""

import numpy as np
import torch

from loaders.sources import open_images
from loaders.sources.folder import Arena, FolderSource
from loaders.sources.quarantine import Quarantine


def fill(arena: Arena, sizes: list[tuple[int, int]], value: int) -> list[torch.Tensor]:
    images = []
    for height, width in sizes:
        room = arena.allocate(height * width * 3)
        room[:] = value + len(images)
        images.append(torch.from_numpy(room).view(height, width, 3))
    return images


def test_batches_of_any_size_come_out_whole_and_use_the_buffer_again():
    arena, labels = Arena(), np.arange(3)
    places = []
    for value, sizes in enumerate([[(3, 4)] * 3, [(3, 4)] * 3, [(9, 9), (1, 1), (5, 2)], [(2, 2)] * 3]):
        batch = arena.collect(fill(arena, sizes, 10 * value), labels, labels)
        for i, (image, size) in enumerate(zip(batch.images, sizes, strict=True)):
            assert image.shape == (*size, 3) and (image == 10 * value + i).all()
        places.append(batch.pixels.data_ptr())
    assert places[0] == places[1] and places[2] == places[3]


def test_room_that_a_bad_image_took_spoils_nothing():
    arena, one = Arena(), np.arange(1)
    arena.collect(fill(arena, [(4, 4)], 1), one, one)
    arena.allocate(40)  # a decoder that gave up
    batch = arena.collect(fill(arena, [(4, 4)], 2), one, one)
    assert (batch.images[0] == 2).all()


def test_a_pass_that_was_left_early_does_not_write_into_the_next(image_folder):
    images = open_images(image_folder)
    source = FolderSource(images, 4, Quarantine(images.path, len(images), 0.05))
    batches = np.split(np.arange(60), 5)
    for _ in range(20):
        next(source.batches(batches))  # the generator is closed here, its decoders under way
        batch = next(source.batches(batches[::-1]))
        for i, image in zip(batch.ids.tolist(), batch.images, strict=True):
            assert torch.equal(image, images.decode(i))
    source.close()
