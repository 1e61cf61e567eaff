"""The token contract: golden measurements, round trips, RTT error, field orders."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stores.codec import (
    Measurement,
    decode_rtt,
    decode_rtts,
    decode_window,
    encode_field,
    encode_measurement,
    encode_rtt,
    encode_rtts,
    encode_window,
    encode_windows,
    field_order,
)
from stores.errors import TokenError
from stores.vocabulary import (
    BYTE0,
    CONTEXT,
    FIELDS,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    ROLE_NAMES,
    VOCABULARY_SIZE,
    token_name,
)

GOLDEN = json.loads(
    (Path(__file__).parent.parent / "data" / "golden_measurements.json").read_bytes()
)
V4 = Measurement(IPv4Address("192.0.2.1"), IPv4Address("198.51.100.7"), 12.5, 1_750_000_000)
V6 = Measurement(IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2"), None, 1_750_000_000)


def measurements(families: tuple[int, ...] = (4, 6)) -> st.SearchStrategy[Measurement]:
    def of_family(family: int) -> st.SearchStrategy[Measurement]:
        address = st.ip_addresses(v=family)
        rtt = st.one_of(st.none(), st.floats(0, 1e7), st.sampled_from([0.0, 1.023, 1.024, 4.095]))
        time = st.one_of(st.integers(0, 2**40), st.integers(1_750_000_000, 1_750_001_000))
        return st.builds(Measurement, address, address, rtt, time)

    return st.sampled_from(families).flatmap(of_family)


@pytest.mark.parametrize("golden", GOLDEN, ids=range(len(GOLDEN)))
def test_golden_measurement_has_its_tokens(golden: dict) -> None:
    time = int(datetime.fromisoformat(golden["event_time"]).timestamp())
    gap = golden["seconds_since_previous_timestamp"]
    clock = None if gap is None else time - gap
    rtt = None if golden["rtt_ms"] < 0 else golden["rtt_ms"]
    src, dst = ip_address(golden["src_addr"]), ip_address(golden["dst_addr"])
    measurement = Measurement(src, dst, rtt, time)
    assert src.version == golden["ip_version"]
    for field in FIELDS:
        assert encode_field(measurement, field, clock) == golden["fields"][field]
    tokens = encode_measurement(measurement, True, clock)
    assert sorted(tokens[1:]) == sorted(
        token for field in golden["fields"].values() for token in field
    )


def test_vocabulary_has_267_tokens_with_distinct_names() -> None:
    names = [token_name(token) for token in range(VOCABULARY_SIZE)]
    assert len(set(names)) == VOCABULARY_SIZE == BYTE0 + 256 == 267
    assert len(ROLE_NAMES) == len(PAYLOAD_BYTES) == BYTE0
    with pytest.raises(ValueError, match="267"):
        token_name(267)


@pytest.mark.parametrize(
    ("measurement", "with_time", "clock", "tokens"),
    [
        (V4, True, None, 23),
        (V4, True, V4.time, 16),
        (V4, True, 0, 19),
        (V4, False, None, 14),
        (V6, True, None, 45),
        (V6, True, V6.time, 38),
        (V6, True, 0, 41),
        (V6, False, None, 36),
    ],
)
def test_token_counts_are_those_of_the_contract(measurement, with_time, clock, tokens) -> None:
    """IPv4 answered 23, 16, 19, 14; a failed probe 2 less; IPv6 24 more."""
    assert len(encode_measurement(measurement, with_time, clock)) == tokens


@given(st.lists(st.tuples(measurements(), st.booleans()), min_size=1, max_size=90))
def test_decoding_gives_back_what_was_encoded(stream: list) -> None:
    windows = encode_windows(stream)
    decoded = [m for window in windows for m in decode_window(window, len(window))]
    assert len(decoded) == len(stream)
    for (before, with_time), after in zip(stream, decoded, strict=True):
        assert (after.src, after.dst) == (before.src, before.dst)
        assert after.time == (before.time if with_time else None)
        if before.rtt_ms is None:
            assert after.rtt_ms is None
        else:
            assert after.rtt_ms == decode_rtt(encode_rtt(before.rtt_ms))


@given(st.lists(st.tuples(measurements(), st.booleans()), min_size=1, max_size=200))
def test_window_never_cuts_a_measurement_and_never_overflows(stream: list) -> None:
    for window in encode_windows(stream):
        assert 0 < len(window) <= CONTEXT
        assert window[0] == MEASUREMENT_START
        decode_window(window, len(window))


def test_time_is_absolute_after_a_change_of_source_and_after_a_step_back() -> None:
    other = Measurement(IPv4Address("203.0.113.9"), V4.dst, 3.0, V4.time + 1)
    back = Measurement(V4.src, V4.dst, 4.0, V4.time - 5)
    tokens = encode_window([(V4, True), (other, True), (V4, True), (back, True)])
    assert [m.time for m in decode_window(tokens, len(tokens))] == [
        V4.time,
        V4.time + 1,
        V4.time,
        V4.time - 5,
    ]
    assert len(tokens) == 4 * 23


def test_delta_skips_measurements_without_time() -> None:
    later = Measurement(V4.src, V4.dst, 4.0, V4.time + 7)
    tokens = encode_window([(V4, True), (V4, False), (later, True)])
    assert len(tokens) == 23 + 14 + 16
    assert decode_window(tokens, len(tokens))[2].time == V4.time + 7


def test_rtt_error_is_within_the_contract() -> None:
    us = np.concatenate([np.geomspace(1024, 2047 * 2.0**31, 400_000), np.arange(1024, 70_000)])
    relative = np.abs(decode_rtts(encode_rtts(us / 1000)) * 1000 / us - 1)
    assert relative.max() <= 1 / 2048
    below = np.linspace(1, 1024, 100_000)
    assert np.abs(decode_rtts(encode_rtts(below / 1000)) * 1000 - below).max() <= 0.5


def test_rtt_code_is_canonical_monotonic_and_saturates() -> None:
    codes = np.arange(2**16, dtype=np.uint16)
    # a mantissa below 1024 with an exponent above 0 also has a smaller exponent: not canonical
    canonical = codes[((codes & 2047) >= 1024) | (codes < 2048)]
    canonical = canonical[canonical > 0]
    np.testing.assert_array_equal(encode_rtts(decode_rtts(canonical)), canonical)
    rtts = np.sort(np.random.default_rng(0).lognormal(3, 4, 100_000))
    assert (np.diff(encode_rtts(rtts).astype(int)) >= 0).all()
    assert encode_rtt(1e300) == encode_rtts(np.array([1e300]))[0] == 31 << 11 | 2047
    assert encode_rtt(0.0) == encode_rtt(0.001) == 1


@given(
    st.one_of(st.floats(0, 1e14), st.floats(0, 1e4), st.integers(0, 10**7).map(lambda n: n / 2000))
)
def test_array_rtt_code_equals_the_plain_one(rtt_ms: float) -> None:
    code = encode_rtt(rtt_ms)
    assert encode_rtts(np.array([rtt_ms]))[0] == code
    assert decode_rtts(np.array([code], np.uint16))[0] == decode_rtt(code)


@given(
    st.one_of(
        st.floats(0, allow_nan=False, allow_infinity=False),
        st.integers(0, 0x7FEF_FFFF_FFFF_FFFF).map(
            lambda bits: float(np.int64(bits).view(np.float64))
        ),
    )
)
@example(sys.float_info.max)
@example(sys.float_info.max / 1000)
@example(math.nextafter(sys.float_info.max / 1000, math.inf))
@example(2047 * 2.0**31 / 1000)
@example(5e-324)
def test_both_encoders_agree_on_every_finite_rtt(rtt_ms: float) -> None:
    """Bit patterns beside values: those alone would hardly ever be large."""
    assert encode_rtts(np.array([rtt_ms]))[0] == encode_rtt(rtt_ms)


@pytest.mark.parametrize("rtt_ms", [-1.0, math.nan, math.inf])
def test_what_is_not_an_rtt_has_no_code(rtt_ms: float) -> None:
    with pytest.raises(ValueError, match="no code"):
        encode_rtt(rtt_ms)


@pytest.mark.parametrize(("with_time", "orders"), [(True, 24), (False, 6)])
def test_field_orders_are_equally_likely(with_time: bool, orders: int) -> None:
    """Chi-square over neighbouring addresses and times, where a weak hash would show."""
    counts: Counter[tuple[int, ...]] = Counter()
    for i in range(24_000):
        src, dst = IPv4Address(0x0A000000 + i % 40), IPv4Address(0x0B000000 + i // 40)
        counts[field_order(src, dst, 1_750_000_000 + i // 7, with_time)] += 1
    assert len(counts) == orders
    expected = 24_000 / orders
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi2 < {24: 49.7, 6: 20.5}[orders]  # 99.9 % quantiles of 23 and 5 degrees of freedom


GOOD = encode_window([(V4, True), (V4, True)])


@pytest.mark.parametrize(
    ("position", "token", "message"),
    [
        (0, 5, "position 0: expected MEASUREMENT_START, found TIMESTAMP_ABS"),
        (0, 300, "position 0: expected MEASUREMENT_START, found token 300"),
        (1, 9, "position 1: expected a field out of src, dst, result, time, found THROUGHPUT"),
        (1, 0, "position 1: expected the measurement's src"),
        (2, 0, "position 2: expected a byte of"),
    ],
)
def test_invalid_token_is_named_with_position_and_expectation(position, token, message) -> None:
    tokens = list(GOOD)
    tokens[position] = token
    with pytest.raises(TokenError, match=message):
        decode_window(tokens, len(tokens))


def test_window_that_ends_early_is_an_error() -> None:
    for length in range(1, len(GOOD)):
        if length != 23:  # the end of the first measurement
            with pytest.raises(TokenError, match="position"):
                decode_window(GOOD, length)
    with pytest.raises(TokenError, match="length 0"):
        decode_window(GOOD, 0)
    with pytest.raises(TokenError, match="expected TIMESTAMP_ABS first"):
        decode_window(GOOD[23:], len(GOOD) - 23)


def test_mixed_families_in_one_measurement_are_an_error() -> None:
    src = encode_field(V4, "src", None)
    dst = encode_field(V6, "dst", None)
    tokens = [MEASUREMENT_START, *src, *dst, *encode_field(V6, "result", None)]
    with pytest.raises(TokenError, match="one address family"):
        decode_window(tokens, len(tokens))
