"""The compiled encoder against the plain one, and the windows it lays out."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import numpy as np
import pytest

from pipeline.tokenize.encoder import EncodedFields, encode_fields, encode_windows
from pipeline.tokenize.streams import Streams, Windows, find_streams, lay_out
from stores.codec import Measurement, decode_window, encode_window, next_fit
from stores.layout import MODES
from stores.vocabulary import CONTEXT

GAPS = [0, 1, 60, 255, 256, 70_000, 2**32 - 1, 2**32]


def random_shard(
    rows: int, seed: int, sources: int = 7
) -> tuple[list[Measurement], EncodedFields, Streams]:
    """Rows sorted by source and time, as plain measurements and as encoder fields."""
    rng = np.random.default_rng(seed)
    families = rng.choice([4, 6], sources)
    keys = [
        bytes([4]) + bytes(12) + rng.bytes(4) if f == 4 else bytes([6]) + rng.bytes(16)
        for f in families
    ]
    source_keys = np.unique(np.array(keys, "S17"))
    family = np.frombuffer(source_keys.tobytes(), np.uint8).reshape(-1, 17)[:, 0]
    targets = [bytes([4]) + bytes(12) + rng.bytes(4) for _ in range(5)]
    targets += [bytes([6]) + rng.bytes(16) for _ in range(5)]
    target_keys = np.unique(np.array(targets, "S17"))

    src = np.sort(rng.integers(0, len(source_keys), rows)).astype(np.uint32)
    dst = (rng.integers(0, 5, rows) + np.where(family[src] == 6, 5, 0)).astype(np.uint32)
    seconds = 1_750_000_000 + np.cumsum(rng.choice(GAPS, rows))
    rtt = np.where(rng.random(rows) < 0.1, -1.0, rng.lognormal(3, 2, rows).round(3))

    def address(key: bytes) -> IPv4Address | IPv6Address:
        raw = key.ljust(17, b"\0")
        return IPv4Address(raw[13:]) if raw[0] == 4 else IPv6Address(raw[1:])

    measurements = [
        Measurement(
            address(source_keys[s]), address(target_keys[d]), None if r < 0 else float(r), int(t)
        )
        for s, d, t, r in zip(src, dst, seconds, rtt, strict=True)
    ]
    fields = encode_fields(src, dst, seconds, rtt, source_keys, target_keys)
    return measurements, fields, find_streams(src, seconds, source_keys)


def encode_all(fields: EncodedFields, windows: Windows) -> np.ndarray:
    out = np.full((len(windows.lengths), CONTEXT), 999, np.uint16)
    encode_windows(fields, windows.rows, windows.timed, windows.starts, out)
    return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_compiled_encoder_equals_the_plain_one(mode: str, seed: int) -> None:
    measurements, fields, streams = random_shard(900, seed)
    windows = lay_out(fields, streams, mode, seed, 0)
    tokens = encode_all(fields, windows)
    stream = [
        (measurements[row], bool(timed))
        for row, timed in zip(windows.rows, windows.timed, strict=True)
    ]
    for line, length, (start, stop) in zip(
        tokens, windows.lengths, pairwise(windows.starts), strict=True
    ):
        assert line[:length].tolist() == encode_window(stream[start:stop])
        assert not line[length:].any()


@pytest.mark.parametrize("mode", MODES)
def test_windows_are_those_of_plain_next_fit_in_time_order(mode: str) -> None:
    measurements, fields, streams = random_shard(900, 9)
    windows = lay_out(fields, streams, mode, 0, 0)
    is_timed = dict(zip(windows.rows.tolist(), windows.timed.tolist(), strict=True))
    order = list(dict.fromkeys(measurements[row].src for row in windows.rows))
    in_time_order = sorted(range(900), key=lambda row: (order.index(measurements[row].src), row))
    plain = next_fit((measurements[row], is_timed[row]) for row in in_time_order)
    assert [len(window) for window in plain] == np.diff(windows.starts).tolist()
    for window, (start, stop) in zip(plain, pairwise(windows.starts), strict=True):
        assert Counter(m for m, _ in window) == Counter(
            measurements[row] for row in windows.rows[start:stop]
        )


@pytest.mark.parametrize("mode", MODES)
def test_windows_are_the_same_size_before_they_are_shuffled(mode: str) -> None:
    _, fields, streams = random_shard(2000, 8)
    windows = lay_out(fields, streams, mode, 0, 0)
    planned = lay_out(fields, streams, mode, 0, 0, shuffled=False)
    assert planned.starts.tolist() == windows.starts.tolist()
    assert planned.lengths.tolist() == windows.lengths.tolist()
    assert (planned.rows.tolist() == windows.rows.tolist()) == (mode == "full")


@pytest.mark.parametrize("mode", MODES)
def test_every_measurement_is_in_exactly_one_window(mode: str) -> None:
    _, fields, streams = random_shard(2000, 3)
    windows = lay_out(fields, streams, mode, 0, 0)
    assert sorted(windows.rows.tolist()) == list(range(2000))
    assert windows.starts[-1] == 2000


def test_sources_follow_one_another_and_timed_rows_keep_their_order() -> None:
    measurements, fields, streams = random_shard(2000, 4)
    for mode in MODES:
        windows = lay_out(fields, streams, mode, 0, 0)
        sources = [measurements[row].src for row in windows.rows]
        changes = sum(a != b for a, b in pairwise(sources))
        assert changes == len(set(sources)) - 1
        timed = [row for row, t in zip(windows.rows, windows.timed, strict=True) if t]
        for a, b in pairwise(timed):
            if measurements[a].src == measurements[b].src:
                assert a < b


def test_none_is_shuffled_and_mixed_keeps_the_time_of_half() -> None:
    _, fields, streams = random_shard(4000, 5)
    none = lay_out(fields, streams, "none", 0, 0)
    mixed = lay_out(fields, streams, "mixed", 0, 0)
    assert not none.timed.any()
    assert 0.46 < mixed.timed.mean() < 0.54
    for rows in (none.rows, mixed.rows[~mixed.timed]):
        assert 0.4 < (np.diff(rows) > 0).mean() < 0.6  # in time order it would be near 1


def test_each_pass_and_each_seed_has_an_order_of_its_own_that_repeats() -> None:
    _, fields, streams = random_shard(1500, 6, sources=12)
    for mode in MODES:
        first = lay_out(fields, streams, mode, 0, 0).rows.tolist()
        assert lay_out(fields, streams, mode, 0, 0).rows.tolist() == first
        assert lay_out(fields, streams, mode, 0, 1).rows.tolist() != first
        assert lay_out(fields, streams, mode, 1, 0).rows.tolist() != first


def test_window_of_every_mode_decodes_to_its_measurements() -> None:
    measurements, fields, streams = random_shard(600, 7)
    for mode in MODES:
        windows = lay_out(fields, streams, mode, 0, 0)
        decoded = [
            m
            for line, length in zip(encode_all(fields, windows), windows.lengths, strict=True)
            for m in decode_window(line, int(length))
        ]
        for m, row, timed in zip(decoded, windows.rows, windows.timed, strict=True):
            assert (m.src, m.dst) == (measurements[row].src, measurements[row].dst)
            assert m.time == (measurements[row].time if timed else None)


def test_no_rows_make_no_windows() -> None:
    empty = np.empty(0, np.int64)
    keys = np.empty(0, "S17")
    src = empty.astype(np.uint32)
    fields = encode_fields(src, src, empty, empty.astype(float), keys, keys)
    for mode in MODES:
        windows = lay_out(fields, find_streams(src, empty, keys), mode, 0, 0)
        assert len(windows.lengths) == 0
        assert windows.starts.tolist() == [0]
