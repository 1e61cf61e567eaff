"""The keyed bijection: a bijection for every n and key, and no order is likelier than another."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.codec import order_hash
from stores.hashing import MASK64, keyed, mix64
from stores.permutation import permute


def plain_permute(index: int, n: int, key: int) -> int:
    """`permute` of one index in plain Python: the definition that docs and tests can be held to."""
    mask = 2**64 - 1
    bits = max(7, (n - 1).bit_length())
    low_bits, high_bits = (bits + 1) // 2, bits // 2

    def round_hash(half: int, number: int) -> int:
        h = (half + key * (2 * number + 1)) * 0xBF58476D1CE4E5B9 & mask
        return (h ^ h >> 32) * 0x94D049BB133111EB & mask

    while True:
        low, high = index & (1 << low_bits) - 1, index >> low_bits
        for number in range(0, 6, 2):
            low ^= round_hash(high, number) >> 64 - low_bits
            high ^= round_hash(low, number + 1) >> 64 - high_bits
        index = high << low_bits | low
        if index < n:
            return index


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=200)
def test_every_index_has_one_image_and_every_image_one_index(n: int, key: int) -> None:
    image = permute(np.arange(n), n, np.uint64(key))
    np.testing.assert_array_equal(np.sort(image), np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 65_536, 65_537, 300_000])
def test_bijection_at_the_sizes_that_matter(n: int) -> None:
    np.testing.assert_array_equal(np.sort(permute(np.arange(n), n, 7)), np.arange(n))


@given(n=st.integers(1, 2**40), key=st.integers(0, 2**64 - 1), data=st.data())
def test_vectorised_equals_plain_python(n: int, key: int, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    expected = [plain_permute(i, n, key) for i in index]
    assert permute(index, n, np.uint64(key)).tolist() == expected


def test_a_key_an_index_equals_one_key_at_a_time() -> None:
    keys = keyed(3, np.arange(5))
    together = permute(np.tile(np.arange(100), 5), 100, np.repeat(keys, 100))
    apart = np.concatenate([permute(np.arange(100), 100, key) for key in keys])
    np.testing.assert_array_equal(together, apart)


def test_an_index_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"index 10 is outside \[0, 10\)"):
        permute([0, 10], 10, 1)


def test_keys_give_different_orders() -> None:
    orders = [tuple(permute(np.arange(100), 100, key)) for key in keyed(0, np.arange(200))]
    assert len(set(orders)) == 200


def chi_square(counts: np.ndarray) -> float:
    """Chi-square per degree of freedom against an even share; about 1 ± sqrt(2 / degrees)."""
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum() / (counts.size - 1))


@pytest.mark.parametrize("n", [2, 3, 7, 10, 16, 33, 100])
def test_every_index_goes_everywhere_equally_often(n: int) -> None:
    keys = keyed(11, np.arange(4000))
    images = permute(np.tile(np.arange(n), len(keys)), n, np.repeat(keys, n)).reshape(-1, n)
    for index in (0, n // 2, n - 1):
        counts = np.bincount(images[:, index], minlength=n)
        assert chi_square(counts) < 1 + 5 * np.sqrt(2 / (n - 1))


@pytest.mark.parametrize("n", [3, 5, 10, 33, 100])
def test_pairs_of_neighbours_go_everywhere_equally_often(n: int) -> None:
    keys = keyed(12, np.arange(40_000))
    first = permute(np.zeros(len(keys), int), n, keys)
    second = permute(np.ones(len(keys), int), n, keys)
    pairs = np.bincount(first * n + second, minlength=n * n)
    pairs = pairs[~np.eye(n, dtype=bool).ravel()]
    assert chi_square(pairs) < 1 + 5 * np.sqrt(2 / (len(pairs) - 1))


def test_all_orders_of_three_come_equally_often() -> None:
    keys = keyed(13, np.arange(12_000))
    images = permute(np.tile(np.arange(3), len(keys)), 3, np.repeat(keys, 3)).reshape(-1, 3)
    counts = np.array([(images == order).all(1).sum() for order in permutations(range(3))])
    assert chi_square(counts) < 1 + 5 * np.sqrt(2 / 5)


def test_an_epoch_is_not_a_run_of_neighbours() -> None:
    image = permute(np.arange(10_000), 10_000, 5)
    assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.05
    assert (np.abs(np.diff(image)) == 1).mean() < 0.002


def test_mix64_is_the_splitmix64_finalizer() -> None:
    """First outputs of SplitMix64 from seed 0, as published with xoshiro."""
    states = np.array([0x9E3779B97F4A7C15], np.uint64) * np.arange(1, 4, dtype=np.uint64)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix64(states).tolist() == expected


def test_the_field_order_of_the_codec_is_this_hash() -> None:
    src, dst, seconds = IPv6Address("2001:db8::ffff:1"), IPv4Address("198.51.100.7"), 1_700_000_000
    words = (int(src) >> 64, int(src) & MASK64, 0, int(dst), seconds)
    assert keyed(*words).tolist() == [order_hash(src, dst, seconds)]
