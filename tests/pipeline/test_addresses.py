"""Address keys: order, round trip, hashes."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.addresses import (
    families,
    format_addresses,
    hash_keys,
    merge_keys,
    parse_addresses,
    words,
)


@given(st.lists(st.ip_addresses(), max_size=50))
def test_addresses_come_back_and_sort_as_numbers(addresses: list) -> None:
    keys = parse_addresses([str(address) for address in addresses])
    assert [ip_address(text) for text in format_addresses(keys)] == addresses
    by_number = sorted(addresses, key=lambda address: (address.version, int(address)))
    assert [ip_address(text) for text in format_addresses(np.sort(keys))] == by_number
    assert families(keys).tolist() == [address.version for address in addresses]
    numbers = [(int(hi) << 64) | int(lo) for hi, lo in words(keys)]
    assert numbers == [int(address) for address in addresses]


def test_text_that_is_not_an_address_has_the_empty_key() -> None:
    wrong = ["", " 8.8.8.8", "8.8.8", "08.8.8.8", "256.1.1.1", "fe80::1%eth0", "::g", "a.b", None]
    keys = parse_addresses([*wrong, "8.8.8.8"])
    assert families(keys).tolist() == [0] * len(wrong) + [4]


def test_spellings_of_one_address_have_one_key() -> None:
    keys = parse_addresses(["2001:DB8::1", "2001:db8:0:0:0:0:0:1", "2001:0db8::0001"])
    assert len(set(keys.tolist())) == 1


def test_hashes_differ_between_families_and_neighbours() -> None:
    texts = [f"1.2.{i // 256}.{i % 256}" for i in range(5000)]
    texts += [f"::1.2.{i // 256}.{i % 256}" for i in range(5000)]
    hashes = hash_keys(parse_addresses(texts))
    assert len(np.unique(hashes)) == 10_000
    assert abs((hashes < np.uint64(2**63)).mean() - 0.5) < 0.02


@given(st.lists(st.lists(st.sampled_from(["8.8.8.8", "8.8.4.4", "2001:db8::", "::"])), min_size=1))
def test_merged_tables_have_every_key_once_and_say_where_it_is(tables: list) -> None:
    keys = [np.unique(parse_addresses(texts)) for texts in tables]
    merged, place = merge_keys(keys)
    expected, expected_place = np.unique(np.concatenate(keys), return_inverse=True)
    assert merged.tolist() == expected.tolist()
    assert place.tolist() == expected_place.tolist()
