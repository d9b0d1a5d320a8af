import numpy as np
import pytest

from loaders.errors import UserError
from loaders.order import Order, neighbour, permutation
from loaders.philox import Domain, philox


def test_a_permutation_visits_every_sample_once_and_differs_by_epoch_and_seed():
    first = permutation(1000, seed=0, epoch=0)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert not np.array_equal(first, permutation(1000, seed=0, epoch=1))
    assert not np.array_equal(first, permutation(1000, seed=1, epoch=0))
    assert np.array_equal(first, permutation(1000, seed=0, epoch=0))


def test_it_sorts_two_words_of_the_counters_of_its_samples():
    count = (1 << 17) + 1
    words = philox(7, np.arange(count), 3, 0, Domain.ORDER)
    assert np.array_equal(permutation(count, seed=7, epoch=3), np.lexsort((words[:, 1], words[:, 0])))


def test_positions_are_uniform():
    places = np.array([np.argsort(permutation(10, 0, epoch)) for epoch in range(2000)])
    counts = np.stack([np.bincount(places[:, sample], minlength=10) for sample in range(10)])
    chi2 = ((counts - 200) ** 2 / 200).sum()
    assert chi2 < 81 + 5 * np.sqrt(2 * 81)  # 81 degrees of freedom, five standard deviations


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_share_the_same_global_batches(world_size):
    ranks = [Order(np.arange(103), 12, True, seed=3, rank=r, world_size=world_size) for r in range(world_size)]
    together = [np.concatenate(shares) for shares in zip(*(order.batches(5) for order in ranks), strict=True)]
    alone = Order(np.arange(103), 12, True, seed=3).batches(5)
    assert len(alone) == 8  # the last, incomplete batch is dropped
    for batch, expected in zip(together, alone, strict=True):
        assert np.array_equal(batch, expected)


def test_a_later_start_gives_the_rest_of_the_epoch():
    order = Order(np.arange(100), 10, True)
    for late, full in zip(order.batches(2, start_batch=4), order.batches(2)[4:], strict=True):
        assert np.array_equal(late, full)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 24, 25])
def test_evaluation_counts_every_sample_once(world_size, count):
    orders = [Order(np.arange(count), 8, False, rank=r, world_size=world_size) for r in range(world_size)]
    ids = np.concatenate([batch for order in orders for batch in order.batches(0)])
    assert np.array_equal(np.sort(ids), np.arange(count))


def test_a_subset_keeps_its_own_ids():
    chosen = np.array([3, 30, 300, 3000])
    assert np.array_equal(np.sort(np.concatenate(Order(chosen, 2, True).batches(0))), chosen)
    assert np.array_equal(np.concatenate(Order(chosen, 3, False).batches(0)), chosen)


def test_impossible_batches_are_named():
    with pytest.raises(UserError, match="batch of 10 images cannot be shared evenly by 4 ranks"):
        Order(np.arange(100), 10, True, world_size=4)
    with pytest.raises(UserError, match="5 images, fewer than one batch of 10"):
        Order(np.arange(5), 10, True)


def test_neighbours_are_within_the_data_set_and_change_with_the_attempt():
    drawn = {neighbour(50, 0, 7, attempt) for attempt in range(20)}
    assert len(drawn) > 10 and max(drawn) < 50
