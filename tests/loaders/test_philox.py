import numpy as np
import pytest

from loaders.order import neighbour, permutation
from loaders.philox import Domain, philox, uniform

# Known answers of Random123's philox4x32-10: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_known_answers(counter, key, expected):
    assert tuple(philox(key, *counter).tolist()) == expected


def test_arrays_broadcast_to_the_scalar_results():
    words = philox(7, np.arange(5)[:, None], 3, np.arange(2))
    assert words.shape == (5, 2, 4)
    assert np.array_equal(words[4, 1], philox(7, 4, 3, 1))


def test_uniform_covers_the_unit_interval_without_one():
    numbers = uniform(np.array([0, 1 << 31, (1 << 32) - 1], dtype=np.uint64))
    assert numbers[0] == 0 and numbers[1] == 0.5 and 0.999 < numbers[2] < 1


def test_a_run_of_an_older_version_draws_the_same_when_it_goes_on():
    assert len(set(Domain)) == len(Domain.__members__) and Domain.CROPS == 0
    assert [domain >> 16 for domain in Domain] == list(range(7)) and not any(domain & 0xFFFF for domain in Domain)
    assert permutation(8, 5, 3).tolist() == [7, 5, 0, 6, 2, 4, 3, 1]
    assert [neighbour(1000, 5, 7, attempt) for attempt in range(3)] == [608, 419, 669]
