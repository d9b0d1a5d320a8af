"""Crops depend on (seed, epoch, sample, view) alone: not on source, threads, ranks or start."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from loaders import CenterCrop, CropSpec, MultiCrop, UserError, make_loader

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("folder", "memory", "ffcv", "dali")
RECIPE = MultiCrop((CropSpec(32, scale=(0.3, 1)), CropSpec(20, scale=(0.1, 0.5))))


def require(source: str) -> None:
    package = {"ffcv": "ffcv", "dali": "nvidia.dali"}.get(source)
    if package:
        pytest.importorskip(package)


def crops_by_sample(path, epochs=(0,), **options) -> dict[tuple[int, int], list[torch.Tensor]]:
    """(epoch, sample id) -> its views."""
    loader = make_loader(path, RECIPE, 12, **options)
    found = {}
    for epoch in epochs:
        loader.set_position(epoch, 0)
        for batch in loader:
            assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
            for i, sample in enumerate(batch.ids.tolist()):
                found[epoch, sample] = [view[i].clone() for view in batch.views]
    loader.close()
    return found


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True)
    )


def test_threads_do_not_matter(image_folder):
    one = crops_by_sample(image_folder, epochs=(0, 1), threads=1)
    assert len(one) == 120 and same(one, crops_by_sample(image_folder, epochs=(0, 1), threads=4))


def test_ranks_do_not_matter(image_folder):
    alone = crops_by_sample(image_folder)
    for world_size in (2, 4):
        together = {}
        for rank in range(world_size):
            together |= crops_by_sample(image_folder, rank=rank, world_size=world_size)
        assert same(alone, together)


@pytest.mark.parametrize("source", ["ffcv", "dali"])
def test_sources_give_the_same_crops_up_to_the_decoders_rounding(image_folder, image_beton, source):
    require(source)
    folder, other = crops_by_sample(image_folder, source="folder"), crops_by_sample(image_beton, source=source)
    assert folder.keys() == other.keys()
    levels = [
        ((a - b).abs() * torch.tensor(RECIPE.std)[:, None, None]).mean() * 255
        for key in folder
        for a, b in zip(folder[key], other[key], strict=True)
    ]
    assert torch.stack(levels).mean() < 2 and torch.stack(levels).max() < 6  # another box or flip: dozens


def test_the_same_decoder_gives_the_same_bits(image_folder, image_beton):
    folder = crops_by_sample(image_folder, source="folder")
    assert same(folder, crops_by_sample(image_beton, source="folder"))
    assert same(folder, crops_by_sample(image_folder, source="memory"))


def test_seed_and_epoch_do_matter(image_folder):
    base = crops_by_sample(image_folder, epochs=(0, 1))
    assert not same({k[1]: v for k, v in base.items() if k[0] == 0}, {k[1]: v for k, v in base.items() if k[0] == 1})
    assert not same(base, crops_by_sample(image_folder, epochs=(0, 1), seed=1))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_position_resumes_exactly(image_beton, source, world_size):
    require(source)
    shared = {"source": source, "threads": 2, "rank": world_size - 1, "world_size": world_size}
    loader = make_loader(image_beton, RECIPE, 12, **shared)
    full = [[(b.ids, *b.views) for b in loader] for _ in range(3)]  # iterating moves on to the next epoch
    for epoch, start in ((0, 3), (2, 1), (1, 0)):
        resumed = make_loader(image_beton, RECIPE, 12, epoch=epoch, start_batch=start, **shared)
        rest = [(b.ids, *b.views) for b in resumed]
        assert len(rest) == len(full[epoch]) - start
        for ours, theirs in zip(rest, full[epoch][start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        resumed.close()
    loader.close()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_state_goes_on_behind_the_batches_given(image_folder):
    loader = make_loader(image_folder, RECIPE, 12)
    given = []
    for views, labels, ids in loader:  # a batch unpacks
        assert len(views) == len(RECIPE.views) and len(labels) == len(ids)
        given.append(ids)
        if len(given) == 2:
            break
    state = json.loads(json.dumps(loader.state_dict()))
    again = make_loader(image_folder, RECIPE, 12)
    again.load_state_dict(state)
    rest = [batch.ids for batch in again]
    whole = [batch.ids for batch in make_loader(image_folder, RECIPE, 12)]
    assert torch.equal(torch.cat(given + rest), torch.cat(whole))
    assert again.state_dict() == {**state, "epoch": 1, "batch": 0}
    with pytest.raises(UserError, match="of another seed, 0, not 1"):
        make_loader(image_folder, RECIPE, 12, seed=1).load_state_dict(state)


@pytest.mark.parametrize("source", SOURCES)
def test_leaving_early_leaves_nothing_behind(image_beton, source):
    require(source)
    loader = make_loader(image_beton, RECIPE, 12, source=source, threads=2)

    def leave_early(times: int) -> None:
        for _ in range(times):
            for _batch in loader:
                break
            loader.set_position(0, 0)

    leave_early(20)
    threads, memory = threading.active_count(), resident_bytes()
    leave_early(200)
    assert threading.active_count() <= threads + 1
    # A batch and its views are 0.3 MB: one left behind each time would be 60 MB.
    assert resident_bytes() - memory < 20e6
    assert len(list(loader)) == len(loader) == 5
    loader.close()


@pytest.mark.parametrize("status", [0, 3])
def test_a_program_may_end_in_the_middle_of_an_epoch(image_folder, status):
    code = f"""
import sys
from loaders import CropSpec, MultiCrop, make_loader
batches = iter(make_loader({str(image_folder)!r}, MultiCrop((CropSpec(32),)), 6, threads=2))
next(batches)
sys.exit({status})
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (status, "")


@pytest.mark.parametrize("source", SOURCES)
def test_memory_is_flat_over_epochs(image_beton, source):
    require(source)
    loader = make_loader(image_beton, RECIPE, 12, source=source, threads=2)

    def epochs(count: int) -> None:
        for _ in range(count):
            for _batch in loader:
                pass

    epochs(10)
    memory = resident_bytes()
    epochs(20)
    assert resident_bytes() - memory < 10e6  # an epoch's pixels and views are 1.5 MB
    loader.close()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_sample_once_in_order(image_folder, world_size):
    ids, labels = [], []
    for rank in range(world_size):
        loader = make_loader(image_folder, CenterCrop(32, 24), 16, rank=rank, world_size=world_size)
        for batch in loader:
            assert batch.views[0].shape[1:] == (3, 24, 24)
            ids += batch.ids.tolist()
            labels += batch.labels.tolist()
        loader.close()
    assert sorted(ids) == list(range(60))
    assert labels == [i // 20 for i in ids]


def test_a_subset(image_folder):
    loader = make_loader(image_folder, CenterCrop(32, 24), 4, samples=[5, 50, 7])
    assert [batch.ids.tolist() for batch in loader] == [[5, 50, 7]]


def test_the_choice_of_source_is_told(image_folder):
    assert make_loader(image_folder, RECIPE, 12).source == "Python threads"


def test_an_error_in_the_loaders_thread_reaches_the_caller(tmp_path):
    for i in range(20):
        (tmp_path / "data" / "class").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "class" / f"{i}.jpg").write_bytes(b"")
    loader = make_loader(tmp_path / "data", RECIPE, 10)
    with pytest.raises(UserError, match="of the 20 images"):
        list(loader)
    with pytest.raises(UserError, match="batch 9 is not within"):
        loader.set_position(0, 9)


@pytest.mark.parametrize("source", SOURCES)
def test_the_end_of_an_epoch_and_an_empty_share_give_no_batch(image_beton, source):
    require(source)
    loader = make_loader(image_beton, RECIPE, 12, source=source, start_batch=5)
    assert list(loader) == [] and len(list(loader)) == 5
    loader.close()
    last = make_loader(image_beton, CenterCrop(32, 24), 59, source=source, rank=1, world_size=2)
    assert [len(batch.ids) for batch in last] == [29]  # the 60th image is rank 0's
    last.close()


def test_the_crops_of_one_sample_are_those_of_its_batch(image_folder):
    found = crops_by_sample(image_folder, epochs=(1,))
    with make_loader(image_folder, RECIPE, 12) as loader:
        for _ in loader:  # amid an epoch, while others are cut
            image, views = loader.crops(7, epoch=1)
            assert image.shape == (64, 48, 3)  # 021.jpg
            assert all(torch.equal(a, b) for a, b in zip(views, found[1, 7], strict=True))
