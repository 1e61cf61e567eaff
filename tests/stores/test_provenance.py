"""What a store holds, as its models will say: simulated or real, how much, of which networks."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stores.codec import Measurement
from stores.errors import DamagedStoreError
from stores.layout import MODES
from stores.manifest import read_manifest
from stores.provenance import (
    MOST_IPV6,
    Provenance,
    _prefixes,
    in_turn,
    is_simulated,
    summary,
    survey,
)
from stores.public import is_public
from stores.reader import TokenStore
from tests.helpers import random_measurements, windows_of_mode, write_store


def make_store(path: Path, train: list[Measurement], test: list[Measurement]) -> Path:
    rows = {"train": train, "test": test}
    arrays = {(split, mode): windows_of_mode(rows[split], mode) for split in rows for mode in MODES}
    return write_store(path, arrays, {split: len(rows[split]) for split in rows})


def test_a_survey_counts_the_train_split_alone(tmp_path: Path) -> None:
    train, test = random_measurements(4000, 1), random_measurements(500, 2)
    store = TokenStore.open(make_store(tmp_path / "store.zarr", train, test))
    seen: list[tuple[int, int]] = []
    found = survey(store, lambda done, total: seen.append((done, total)))
    assert (found.data, found.store_digest, found.rows) == ("real", store.digest, 4000)
    assert found.sources == len({row.src for row in train})
    assert found.destinations == len({row.dst for row in train})
    times = [row.time for row in train if row.time is not None]
    assert (found.first_second, found.last_second) == (min(times), max(times))
    assert seen[-1] == (store.windows("train", "full"),) * 2
    for field in ("src", "dst"):
        known = {getattr(row, field) for row in train}
        assert all(found.prefixes(field).unmet(address) is None for address in known)  # type: ignore[arg-type]
        bits = {4: 16, 6: 32}
        prefixes = {(a.version, int(a) >> (a.max_prefixlen - bits[a.version])) for a in known}
        for address in {getattr(row, field) for row in test}:
            number = int(address) >> (address.max_prefixlen - bits[address.version])
            met = (address.version, number) in prefixes
            assert (found.prefixes(field).unmet(address) is None) == met  # type: ignore[arg-type]


def test_a_source_is_not_a_destination_and_a_prefix_is_named(tmp_path: Path) -> None:
    rows = [
        Measurement(ip_address("9.8.7.6"), ip_address("11.12.13.14"), 5.0, 1_700_000_000),
        Measurement(ip_address("2a00::1"), ip_address("2a01:4f8::1"), 5.0, 1_700_000_060),
    ]
    found = survey(TokenStore.open(make_store(tmp_path / "store.zarr", rows, rows)))
    sources, destinations = found.prefixes("src"), found.prefixes("dst")
    assert sources.unmet(ip_address("9.8.255.1")) is None
    assert sources.unmet(ip_address("11.12.13.14")) == "11.12.0.0/16"
    assert destinations.unmet(ip_address("9.8.7.6")) == "9.8.0.0/16"
    assert destinations.unmet(ip_address("2a01:4f8:1::")) is None
    assert destinations.unmet(ip_address("2a01:4f9::1")) == "2a01:4f9::/32"
    shown = summary(found)
    assert shown is not None
    assert shown["first_time"] == "2023-11-14T22:13:20+00:00"
    assert json.loads(json.dumps(shown)) == shown
    assert summary(None) is None


def test_a_provenance_survives_json_and_a_damaged_one_is_refused() -> None:
    words = np.array([[0, 0x0102_0304], [0x2001_0D00_0000_0000, 1]], np.uint64)
    lists = _prefixes(words)
    made = Provenance("simulated", "ab", 5, 2, 2, 1, 9, lists, lists)
    assert msgspec.convert(json.loads(json.dumps(asdict(made))), Provenance) == made
    for field, text in (("ipv4_16", "?"), ("ipv4_16", "AAAA"), ("ipv6_32", "AAA=")):
        values = asdict(made)
        values["source_prefixes"][field] = text
        with pytest.raises(msgspec.ValidationError, match="list of prefixes"):
            msgspec.convert(values, Provenance)


def test_too_many_prefixes_are_not_listed_and_nothing_is_claimed() -> None:
    words = np.zeros((MOST_IPV6 + 1, 2), np.uint64)
    words[:, 0] = np.arange(1, len(words) + 1, dtype=np.uint64) << np.uint64(32)
    assert _prefixes(words[1:]).unmet(IPv6Address("ffff:ffff::")) == "ffff:ffff::/32"
    many = _prefixes(words)
    assert many.ipv6_32 is None
    assert many.unmet(IPv6Address("ffff:ffff::")) is None
    assert many.unmet(IPv4Address("9.9.9.9")) == "9.9.0.0/16"


def test_all_prefixes_fit_into_the_files_that_hold_them() -> None:
    """`read_object` takes files of up to 1 MiB."""
    ipv4 = np.zeros((1 << 16, 2), np.uint64)
    ipv4[:, 1] = np.arange(1 << 16, dtype=np.uint64) << np.uint64(16)
    ipv6 = np.zeros((MOST_IPV6, 2), np.uint64)
    ipv6[:, 0] = np.arange(1, MOST_IPV6 + 1, dtype=np.uint64) << np.uint64(40)
    lists = _prefixes(np.concatenate([ipv4, ipv6]))
    assert lists.unmet(IPv4Address("255.255.0.1")) is None
    made = Provenance("real", "ab" * 32, 5, 2, 2, 1, 9, lists, lists)
    assert len(json.dumps(asdict(made))) < 900_000


def test_a_damaged_window_is_named(tmp_path: Path) -> None:
    rows = random_measurements(300)
    path = make_store(tmp_path / "store.zarr", rows, rows)
    store = TokenStore.open(path)
    file = path / "train/full/tokens/c/0/0"
    content = bytearray(file.read_bytes())
    content[0] = 77
    file.write_bytes(content)
    with pytest.raises(DamagedStoreError, match="train/full breaks the grammar"):
        survey(store)


@pytest.mark.parametrize(
    ("configuration", "simulated"),
    [
        ({"simulate": {"seed": 0}, "split": {}}, True),
        ({"split": {"simulated": True}}, True),
        ({"split": {"by": "time"}}, False),
        ({"ingest": {}, "split": {"simulated": 1}}, False),
        ({}, False),
    ],
)
def test_a_store_tells_a_simulation_by_its_recorded_options(
    store: Path, configuration: dict[str, dict[str, Any]], simulated: bool
) -> None:
    manifest = replace(read_manifest(store), configuration=configuration)
    assert is_simulated(manifest) == simulated


@pytest.mark.parametrize(
    ("text", "public"),
    [
        *((text, True) for text in ("8.8.8.8", "193.0.14.129", "2001:7fd::1", "2a00::1")),
        *((text, False) for text in ("10.0.0.1", "192.168.1.1", "172.16.0.1", "127.0.0.1")),
        *((text, False) for text in ("224.0.0.1", "192.0.2.1", "169.254.1.1", "100.64.0.1")),
        *((text, False) for text in ("0.0.0.0", "255.255.255.255", "::1", "fe80::1", "fd00::1")),
        *((text, False) for text in ("2001:db8::1", "ff0e::1", "::ffff:8.8.8.8")),
    ],
)
def test_which_addresses_are_of_the_internet(text: str, public: bool) -> None:
    assert is_public(ip_address(text)) == public


def test_what_was_trained_on_in_turn_is_added_up_and_its_prefixes_are_united(
    tmp_path: Path,
) -> None:
    parts = [
        survey(TokenStore.open(make_store(tmp_path / str(seed), rows, rows)))
        for seed, rows in ((1, random_measurements(3000, 1)), (2, random_measurements(500, 2)))
    ]
    both = in_turn(replace(parts[0], data="simulated"), parts[1])
    assert (both.data, both.store_digest, both.rows) == ("mixed", parts[1].store_digest, 3500)
    assert both.sources == parts[0].sources + parts[1].sources
    assert both.first_second == min(part.first_second or 0 for part in parts)
    assert both.last_second == max(part.last_second or 0 for part in parts)
    for rows in (random_measurements(3000, 1), random_measurements(500, 2)):
        assert all(both.prefixes("src").unmet(row.src) is None for row in rows)
        assert all(both.prefixes("dst").unmet(row.dst) is None for row in rows)
    assert in_turn(*parts).data == "real"
    empty = replace(parts[0], first_second=None, last_second=None)
    assert in_turn(empty, empty).first_second is None
    many = replace(parts[0].source_prefixes, ipv6_32=None)
    assert (many | parts[1].source_prefixes).ipv6_32 is None
