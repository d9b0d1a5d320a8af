"""The memory source: what it keeps, who shares it, and in which order a GPU writes and reads it."""

import gc

import numpy as np
import pytest
import torch

from loaders import CenterCrop, CropSpec, MultiCrop, make_loader
from loaders.sources import memory as memory_module
from loaders.sources import open_images
from loaders.sources.memory import MemorySource
from loaders.sources.quarantine import Quarantine
from tests.helpers.images import write_image

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def open_memory(path, samples=None, listed=None, device=CPU) -> MemorySource:
    images = open_images(path)
    return MemorySource(images, 2, Quarantine(images.path, len(images), 0.1, listed), device, samples)


def take(source: MemorySource, ids) -> torch.Tensor:
    """The pixels that a batch lies in."""
    (batch,) = source.batches([np.array(ids)])
    return batch.pixels


def assert_equal_to_the_files(path, source: MemorySource, ids) -> None:
    images = open_images(path)
    (batch,) = source.batches([np.array(ids)])
    assert batch.ids.tolist() == list(ids) and batch.labels.tolist() == images.labels[list(ids)].tolist()
    assert all(torch.equal(kept.cpu(), images.decode(i)) for kept, i in zip(batch.images, ids, strict=True))


def test_a_subset_keeps_its_own_pixels_alone(image_folder):
    images, samples = open_images(image_folder), [5, 17, 3, 59]
    source = open_memory(image_folder, np.array(samples))
    assert_equal_to_the_files(image_folder, source, samples)
    assert take(source, samples).numel() == sum(images.decode(i).numel() for i in samples)
    loader = make_loader(image_folder, CenterCrop(32, 32), 4, source="memory", samples=samples)
    assert [batch.ids.tolist() for batch in loader] == [samples]
    loader.close()


def test_sources_of_one_dataset_share_their_pixels(image_beton):
    """As training, its neighbours and its queries do."""
    training = make_loader(image_beton, MultiCrop((CropSpec(32),)), 12, source="memory")
    bank = make_loader(image_beton, CenterCrop(32, 32), 12, source="memory", samples=[1, 40, 7])
    queries = make_loader(image_beton, CenterCrop(32, 32), 12, source="memory")
    places = {take(loader._source, [1, 7]).data_ptr() for loader in (training, bank, queries)}
    assert len(places) == 1
    training.close()
    assert_equal_to_the_files(image_beton, bank._source, [40, 1])  # they go with the last one
    for loader in (bank, queries):
        loader.close()
    gc.collect()
    assert not memory_module._kept


def test_what_a_subset_lacks_is_not_taken_from_it(image_folder):
    part = open_memory(image_folder, np.array([1, 2]))
    whole = open_memory(image_folder)
    assert_equal_to_the_files(image_folder, whole, [0, 1, 2, 59])
    assert_equal_to_the_files(image_folder, part, [2, 1])


def test_other_images_under_the_same_path_are_not_shared(tmp_path):
    for i in range(20):
        write_image(tmp_path / "data" / "class" / f"{i:02}.jpg", 20, 30, seed=i)
    before = open_memory(tmp_path / "data")
    kept = take(before, [0]).clone()
    for i in range(20):
        write_image(tmp_path / "data" / "class" / f"{i:02}.jpg", 20, 30, seed=100 + i)
    after = open_memory(tmp_path / "data")
    assert_equal_to_the_files(tmp_path / "data", after, range(20))
    assert torch.equal(take(before, [0]), kept)


def test_a_source_that_shares_lists_bad_images_too(tmp_path):
    for i in range(30):
        write_image(tmp_path / "data" / "class" / f"{i:02}.jpg", 20, 30, seed=i)
    (tmp_path / "data" / "class" / "04.jpg").write_bytes(b"no image")
    first = open_memory(tmp_path / "data", listed=tmp_path / "first.txt")
    second = open_memory(tmp_path / "data", listed=tmp_path / "second.txt")
    assert take(first, [3]).data_ptr() == take(second, [3]).data_ptr()
    assert "04.jpg" in (tmp_path / "second.txt").read_text()
    assert (tmp_path / "first.txt").read_text() == (tmp_path / "second.txt").read_text()


@pytest.mark.gpu
@needs_gpu
def test_a_stream_that_waits_for_nothing_reads_whole_pixels(image_folder, monkeypatch):
    device, cat = torch.device("cuda", torch.cuda.current_device()), torch.cat

    def late(tensors, *arguments, **options):
        """As on a GPU that is busy: what puts the pixels together starts a second after it was asked for."""
        if tensors[0].is_cuda:
            torch.cuda._sleep(1 << 31)
        return cat(tensors, *arguments, **options)

    monkeypatch.setattr(torch, "cat", late)
    with torch.cuda.stream(torch.cuda.Stream()):
        source = open_memory(image_folder, device=device)
    with torch.cuda.stream(torch.cuda.Stream()):
        assert_equal_to_the_files(image_folder, source, range(60))
