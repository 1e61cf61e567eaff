"""Measurements to tokens and back, one at a time, in plain Python.

This is the readable twin of the compiled encoder (`pipeline.tokenize.encoder`), which the tests hold to it,
and the only decoder there is. The contract is docs/format.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from stores.errors import TokenError
from stores.hashing import GOLDEN, MASK64, MULTIPLIERS, SHIFTS
from stores.vocabulary import (
    BYTE0,
    CONTEXT,
    DST_IPV4,
    DST_IPV6,
    FAILED,
    FIELD_OF_ROLE,
    FIELDS,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    RTT_START,
    SRC_IPV4,
    SRC_IPV6,
    THROUGHPUT_START,
    TIMESTAMP_ABS,
    TIMESTAMP_DELTA1,
    TIMESTAMP_DELTA4,
    VOCABULARY_SIZE,
    Field,
    token_name,
)

ORDERS_WITH_TIME = tuple(permutations(range(4)))
"""The 24 orders of (src, dst, result, time), as indices into `FIELDS`."""
ORDERS_WITHOUT_TIME = tuple(permutations(range(3)))
"""The 6 orders of (src, dst, result)."""

MAX_DELTA = 2**32 - 1  # seconds; a larger step, or a negative one, is written as an absolute time
MAX_MANTISSA = 2047

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Measurement:
    """One ping: addresses of one family, RTT in ms (`None`: failed), Unix seconds (`None`: no time)."""

    src: Address
    dst: Address
    rtt_ms: float | None
    time: int | None


# --- RTT code: 5-bit exponent, 11-bit mantissa, microseconds ---------------------------------------


def encode_rtt(rtt_ms: float) -> int:
    """16-bit code of an RTT in ms, clamped to [0.001 ms, 2047 · 2³¹ µs].

    The smallest exponent whose mantissa, rounded to nearest (ties to even), is at most 2047: canonical,
    monotonic, at most 1/2048 off from 1.024 ms up and 0.5 µs below. Raises `ValueError` for a
    negative (that is a failed probe) or non-finite RTT.
    """
    if not 0 <= rtt_ms < float("inf"):
        raise ValueError(f"RTT {rtt_ms} ms has no code: expected a finite number, 0 or more")
    us = min(max(rtt_ms * 1000.0, 1.0), MAX_MANTISSA * 2.0**31)
    exponent = 0
    while (mantissa := round(us / (1 << exponent))) > MAX_MANTISSA:
        exponent += 1
    return exponent << 11 | mantissa


def decode_rtt(code: int) -> float:
    """RTT in ms of a 16-bit code."""
    return ((code & MAX_MANTISSA) << (code >> 11)) / 1000.0


def encode_rtts(rtt_ms: NDArray[np.float64]) -> NDArray[np.uint16]:
    """`encode_rtt` of an array (any shape), float64 ms to uint16 codes. All must be finite, 0 or more."""
    with np.errstate(over="ignore"):  # what is infinite in us is clipped, too
        us = np.clip(np.asarray(rtt_ms, np.float64) * 1000.0, 1.0, MAX_MANTISSA * 2.0**31)
    exponent = np.maximum(np.frexp(us)[1] - 11, 0)  # us < 2**(exponent + 11)
    mantissa = np.rint(np.ldexp(us, -exponent))
    carry = mantissa > MAX_MANTISSA  # rounded up to 2048: one exponent more, mantissa 1024
    exponent = exponent + carry
    mantissa = np.where(carry, np.rint(np.ldexp(us, -exponent)), mantissa)
    codes: NDArray[np.uint16] = exponent.astype(np.uint16) << np.uint16(11)
    codes |= mantissa.astype(np.uint16)
    return codes


def decode_rtts(codes: NDArray[np.uint16]) -> NDArray[np.float64]:
    """`decode_rtt` of an array (any shape): uint16 codes to float64 ms."""
    wide = np.asarray(codes, np.int64)
    us: NDArray[np.float64] = np.ldexp((wide & MAX_MANTISSA).astype(np.float64), wide >> 11)
    return us / 1000.0


# --- Field order ------------------------------------------------------------------------------------


def order_hash(src: Address, dst: Address, seconds: int) -> int:
    """64-bit hash of a measurement, from which its field order is taken.

    `stores.hashing.keyed` of five words: high and low half of the source, high and low half of the
    destination (an IPv4 address is a low half), Unix seconds. Written out in Python integers, so that
    the reference can be read, and ported, without NumPy.
    """
    h = 0
    for word in (int(src) >> 64, int(src), int(dst) >> 64, int(dst), seconds):
        h = ((h ^ (word & MASK64)) + GOLDEN) & MASK64
        h = ((h ^ (h >> SHIFTS[0])) * MULTIPLIERS[0]) & MASK64
        h = ((h ^ (h >> SHIFTS[1])) * MULTIPLIERS[1]) & MASK64
        h ^= h >> SHIFTS[2]
    return h


def field_order(src: Address, dst: Address, seconds: int, with_time: bool) -> tuple[int, ...]:
    """Order of a measurement's fields, as indices into `FIELDS`: one of 24 with time, of 6 without.

    A pure function of addresses and Unix seconds; both choices are uniform and independent.
    """
    h = order_hash(src, dst, seconds)
    return ORDERS_WITH_TIME[h % 24] if with_time else ORDERS_WITHOUT_TIME[(h >> 32) % 6]


# --- Encoding ---------------------------------------------------------------------------------------


def _bytes(payload: bytes) -> list[int]:
    return [BYTE0 + byte for byte in payload]


def encode_field(measurement: Measurement, field: str, clock: int | None) -> list[int]:
    """Tokens of one field: its role, then its payload bytes.

    `clock` is the Unix second of the previous timestamped measurement of the same source in the same
    window, or `None`; only the time field looks at it.
    """
    if field == Field.SOURCE:
        role = SRC_IPV4 if measurement.src.version == 4 else SRC_IPV6
        return [role, *_bytes(measurement.src.packed)]
    if field == Field.DESTINATION:
        role = DST_IPV4 if measurement.dst.version == 4 else DST_IPV6
        return [role, *_bytes(measurement.dst.packed)]
    if field == Field.RESULT:
        if measurement.rtt_ms is None:
            return [FAILED]
        return [RTT_START, *_bytes(encode_rtt(measurement.rtt_ms).to_bytes(2, "big"))]
    assert measurement.time is not None
    delta = -1 if clock is None else measurement.time - clock
    if 0 <= delta <= 255:
        return [TIMESTAMP_DELTA1, *_bytes(delta.to_bytes(1, "big"))]
    if 256 <= delta <= MAX_DELTA:
        return [TIMESTAMP_DELTA4, *_bytes(delta.to_bytes(4, "big"))]
    return [TIMESTAMP_ABS, *_bytes(measurement.time.to_bytes(8, "big"))]


def encode_measurement(
    measurement: Measurement, with_time: bool = True, clock: int | None = None
) -> list[int]:
    """Tokens of one measurement in its own field order, 12 to 47 of them.

    `measurement.time` is needed even when it is not written, for the field order.
    """
    assert measurement.time is not None
    tokens = [MEASUREMENT_START]
    order = field_order(measurement.src, measurement.dst, measurement.time, with_time)
    for index in order:
        tokens += encode_field(measurement, FIELDS[index], clock)
    return tokens


Timed = tuple[Measurement, bool]
"""A measurement, and whether it is written with its time."""


def encode_window(window: Iterable[Timed]) -> list[int]:
    """Tokens of one window.

    The clock that deltas count from starts empty, and is emptied at every change of source.
    """
    tokens: list[int] = []
    clock: int | None = None
    source: Address | None = None
    for measurement, with_time in window:
        if measurement.src != source:
            source, clock = measurement.src, None
        tokens += encode_measurement(measurement, with_time, clock)
        if with_time:
            clock = measurement.time
    return tokens


def next_fit(stream: Iterable[Timed], context: int = CONTEXT) -> list[list[Timed]]:
    """Windows of a stream, in order: a measurement that does not fit any more opens the next one."""
    windows: list[list[Timed]] = []
    for item in stream:
        if not windows or len(encode_window([*windows[-1], item])) > context:
            windows.append([])
        windows[-1].append(item)
    return windows


def encode_windows(stream: Iterable[Timed], context: int = CONTEXT) -> list[list[int]]:
    """Tokens of the next-fit windows of a stream."""
    return [encode_window(window) for window in next_fit(stream, context)]


# --- Decoding ---------------------------------------------------------------------------------------


def decode_window(tokens: Sequence[int] | NDArray[np.uint16], length: int) -> list[Measurement]:
    """Measurements of a window's first `length` tokens, in order.

    Addresses are exact, times exact to the second where present, RTTs to the code's precision. Needs no
    state but a clock: an absolute time sets it, a delta advances it. Raises `TokenError` naming the
    position, what was expected there and what was found.
    """
    if not 0 < length <= len(tokens):
        raise TokenError(f"length {length}: expected 1 to {len(tokens)}")
    window = [int(token) for token in tokens[:length]]
    measurements = []
    clock: int | None = None
    position = 0
    while position < length:
        if window[position] != MEASUREMENT_START:
            raise _unexpected(position, "MEASUREMENT_START", window[position])
        position += 1
        fields: dict[Field, tuple[int, bytes]] = {}
        while position < length and window[position] != MEASUREMENT_START:
            role = window[position]
            field = FIELD_OF_ROLE.get(role)
            if field is None or field in fields:
                missing = [name for name in FIELDS if name not in fields]
                raise _unexpected(position, f"a field out of {', '.join(missing)}", role)
            fields[field] = (role, _payload(window, position))
            position += 1 + PAYLOAD_BYTES[role]
        measurement, clock = _assemble(fields, clock, position)
        measurements.append(measurement)
    return measurements


def _payload(window: list[int], position: int) -> bytes:
    """Bytes behind the role token at `position`."""
    end = position + 1 + PAYLOAD_BYTES[window[position]]
    for at in range(position + 1, end):
        if at >= len(window):
            name = token_name(window[position])
            raise TokenError(f"position {at}: the window ends inside {name}, expected a byte")
        if not BYTE0 <= window[at] < VOCABULARY_SIZE:
            raise _unexpected(at, f"a byte of {token_name(window[position])}", window[at])
    return bytes(token - BYTE0 for token in window[position + 1 : end])


def _assemble(
    fields: dict[Field, tuple[int, bytes]], clock: int | None, position: int
) -> tuple[Measurement, int | None]:
    """Measurement of parsed fields, and the clock after it; `position` is where it ended."""
    for name in FIELDS[:3]:
        if name not in fields:
            raise TokenError(
                f"position {position}: expected the measurement's {name}, found its end"
            )
    (src_role, src), (dst_role, dst), (role, result) = (fields[f] for f in FIELDS[:3])
    if (src_role == SRC_IPV4) != (dst_role == DST_IPV4):
        raise TokenError(
            f"position {position}: expected one address family, found "
            f"{token_name(src_role)} with {token_name(dst_role)}"
        )
    time = None
    if Field.TIME in fields:
        time_role, payload = fields[Field.TIME]
        time = int.from_bytes(payload, "big")
        if time_role != TIMESTAMP_ABS:
            if clock is None:
                raise TokenError(
                    f"position {position}: expected TIMESTAMP_ABS first in a window, "
                    f"found {token_name(time_role)}"
                )
            time += clock
        clock = time
    to_address = IPv4Address if src_role == SRC_IPV4 else IPv6Address
    rtt_ms = None if role == FAILED else decode_rtt(int.from_bytes(result, "big"))
    return Measurement(to_address(src), to_address(dst), rtt_ms, time), clock


def _unexpected(position: int, expected: str, token: int) -> TokenError:
    found = token_name(token) if 0 <= token < VOCABULARY_SIZE else f"token {token}"
    if token == THROUGHPUT_START:
        found += ", which is reserved"
    return TokenError(f"position {position}: expected {expected}, found {found}")
