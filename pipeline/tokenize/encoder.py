"""The compiled encoder: from rows of a shard to windows of tokens.

It does the same as `stores.codec.encode_windows`, and tests compare the two. There are two kernels:
`fit_windows` counts tokens and places window bounds, `encode_windows` writes the tokens. Both take a stream:
`rows`, an order of the shard's rows, and `timed`, whether each of them is written with its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.addresses import KEY_BYTES, Keys, families, words
from stores.codec import MAX_DELTA, ORDERS_WITH_TIME, ORDERS_WITHOUT_TIME, encode_rtts
from stores.hashing import GOLDEN, MULTIPLIERS, SHIFTS
from stores.vocabulary import (
    BYTE0,
    CONTEXT,
    DST_IPV4,
    DST_IPV6,
    FAILED,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    RTT_START,
    SRC_IPV4,
    SRC_IPV6,
    TIMESTAMP_ABS,
    TIMESTAMP_DELTA1,
    TIMESTAMP_DELTA4,
)

_SRC, _DST, _RESULT, _TIME, _END = range(5)  # the fields as in `stores.codec.FIELDS`
_NO_TIME, _ABSOLUTE, _DELTA1, _DELTA4 = range(4)  # how a measurement's time is written
_ROLES = np.array([0, TIMESTAMP_ABS, TIMESTAMP_DELTA1, TIMESTAMP_DELTA4], np.uint16)
_TIME_BYTES = np.array([0, *(PAYLOAD_BYTES[int(role)] for role in _ROLES[1:])])
_TIME_TOKENS = np.array([0, *(1 + PAYLOAD_BYTES[int(role)] for role in _ROLES[1:])])
_RTT_TOKENS = 1 + PAYLOAD_BYTES[RTT_START]
_WITH_TIME = len(ORDERS_WITH_TIME)


def _list_places() -> NDArray[np.uint8]:
    """Where each field begins in a measurement, and where that ends: uint8 (orders, IPv6, failed, kind of time, 5).

    The orders are the 24 with time, then the 6 without. Fields found in this table and not one after the other
    cost the processor no guesses about their order, which is random.
    """
    orders = [*ORDERS_WITH_TIME, *ORDERS_WITHOUT_TIME]
    places = np.zeros((len(orders), 2, 2, len(_TIME_TOKENS), 5), np.uint8)
    for index in np.ndindex(places.shape[:-1]):
        order, ipv6, failed, kind = index
        address, result = 17 if ipv6 else 5, 1 if failed else _RTT_TOKENS
        at = 1  # past MEASUREMENT_START
        for field in orders[order]:
            places[index][field] = at
            at += (address, address, result, int(_TIME_TOKENS[kind]))[field]
        places[index][_END] = at
    return places


_PLACES = _list_places()


@dataclass(frozen=True)
class Sizes:
    """What the number of tokens of a shard's rows depends on. n rows, s sources."""

    src: NDArray[np.uint32]  # (n,) index of its source
    seconds: NDArray[np.int64]  # (n,) Unix time
    failed: NDArray[np.bool_]  # (n,) whether the probe failed
    address_tokens: NDArray[np.uint8]  # (s,) tokens of either address: 5 or 17


@dataclass(frozen=True)
class EncodedFields(Sizes):
    """Rows of a shard, ready to be laid out as tokens. n rows, s sources, d destinations."""

    dst: NDArray[np.uint32]  # (n,) row of dst_tokens
    rtt: NDArray[np.uint16]  # (n,) code; of a failed probe, any
    order: NDArray[np.uint8]  # (n, 2) field order with time (of 24) and without (of 6)
    src_tokens: NDArray[np.uint16]  # (s, 17) role and bytes, 5 of them for IPv4
    dst_tokens: NDArray[np.uint16]  # (d, 17)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The fields in the order in which the kernels take them."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


def find_sizes(
    src: NDArray[np.uint32],
    seconds: NDArray[np.int64],
    rtt_ms: NDArray[np.float64],
    sources: Keys,
) -> Sizes:
    """Sizes of n rows, from columns as `encode_fields` takes them."""
    return Sizes(src, seconds, rtt_ms < 0, np.where(families(sources) == 4, 5, 17).astype(np.uint8))


def encode_fields(
    src: NDArray[np.uint32],
    dst: NDArray[np.uint32],
    seconds: NDArray[np.int64],
    rtt_ms: NDArray[np.float64],
    sources: Keys,
    destinations: Keys,
) -> EncodedFields:
    """Encode what does not depend on mode or window, for n rows. Keys are those of `pipeline.addresses`.

    `rtt_ms` must be finite; a negative value is a failed probe. `seconds` must be 0 or more.
    """
    sizes = find_sizes(src, seconds, rtt_ms, sources)
    return EncodedFields(
        **vars(sizes),
        dst=dst,
        rtt=encode_rtts(np.where(sizes.failed, 0.0, rtt_ms)),
        order=_field_orders(src, dst, seconds, words(sources), words(destinations)),
        src_tokens=_address_tokens(sources, SRC_IPV4, SRC_IPV6),
        dst_tokens=_address_tokens(destinations, DST_IPV4, DST_IPV6),
    )


def _address_tokens(keys: Keys, ipv4: int, ipv6: int) -> NDArray[np.uint16]:
    """Role and byte tokens of addresses, left-aligned: uint16 (k, 17)."""
    raw = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY_BYTES).astype(np.uint16)
    tokens = raw + np.uint16(BYTE0)
    is_ipv4 = raw[:, 0] == 4
    tokens[is_ipv4, 1:5] = tokens[is_ipv4, 13:17]
    tokens[:, 0] = np.where(is_ipv4, ipv4, ipv6)
    return tokens


@numba.njit(cache=True, nogil=True)
def mix_word(h: np.uint64, word: np.uint64) -> np.uint64:
    """`stores.hashing.fold` of two uint64 scalars, written out: compiled code cannot call it."""
    h = (h ^ word) + np.uint64(GOLDEN)
    h = (h ^ (h >> np.uint64(SHIFTS[0]))) * np.uint64(MULTIPLIERS[0])
    h = (h ^ (h >> np.uint64(SHIFTS[1]))) * np.uint64(MULTIPLIERS[1])
    return h ^ (h >> np.uint64(SHIFTS[2]))


@numba.njit(cache=True, nogil=True)
def _field_orders(
    src: NDArray[np.uint32],
    dst: NDArray[np.uint32],
    seconds: NDArray[np.int64],
    src_words: NDArray[np.uint64],
    dst_words: NDArray[np.uint64],
) -> NDArray[np.uint8]:
    by_source = np.empty(len(src_words), np.uint64)
    for i in range(len(src_words)):
        by_source[i] = mix_word(mix_word(np.uint64(0), src_words[i, 0]), src_words[i, 1])
    orders = np.empty((len(src), 2), np.uint8)
    for i in range(len(src)):
        h = mix_word(mix_word(by_source[src[i]], dst_words[dst[i], 0]), dst_words[dst[i], 1])
        h = mix_word(h, np.uint64(seconds[i]))
        orders[i, 0] = h % np.uint64(24)
        orders[i, 1] = (h >> np.uint64(32)) % np.uint64(6)
    return orders


def fit_windows(
    sizes: Sizes, rows: NDArray[np.int64], timed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Next-fit of a stream of m measurements into windows of 1024 tokens.

    Returns the first measurement of each window and m at the end, int64 (windows + 1,), and the
    tokens in each window, uint16 (windows,).
    """
    fitted: tuple[NDArray[np.int64], NDArray[np.uint16]] = _fit_windows(
        rows, timed, sizes.src, sizes.seconds, sizes.failed, sizes.address_tokens
    )
    return fitted


@numba.njit(cache=True, nogil=True)
def _fit_windows(
    rows: NDArray[np.int64],
    timed: NDArray[np.bool_],
    src: NDArray[np.uint32],
    seconds: NDArray[np.int64],
    failed: NDArray[np.bool_],
    address_tokens: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    starts = np.empty(len(rows) // 21 + 2, np.int64)  # a window holds 21 measurements or more
    lengths = np.empty(len(rows) // 21 + 2, np.uint16)
    windows = 0
    used = CONTEXT + 1
    clock = np.int64(-1)
    source = np.int64(-1)
    for i in range(len(rows)):
        row = rows[i]
        if src[row] != source:
            source = np.int64(src[row])
            clock = np.int64(-1)
        size = 1 + 2 * int(address_tokens[source])
        size += 1 if failed[row] else _RTT_TOKENS
        time_size = _TIME_TOKENS[_kind_of_time(seconds[row], clock)] if timed[i] else 0
        if used + size + time_size > CONTEXT:
            if windows:
                lengths[windows - 1] = used
            starts[windows] = i
            windows += 1
            used = 0
            clock = np.int64(-1)
            if timed[i]:
                time_size = _TIME_TOKENS[_ABSOLUTE]
        used += size + time_size
        if timed[i]:
            clock = seconds[row]
    if windows:
        lengths[windows - 1] = used
    starts[windows] = len(rows)
    return starts[: windows + 1], lengths[:windows]


def encode_windows(
    fields: EncodedFields,
    rows: NDArray[np.int64],
    timed: NDArray[np.bool_],
    starts: NDArray[np.int64],
    out: NDArray[np.uint16],
) -> None:
    """Write windows `starts[k]` to `starts[k + 1] - 1`, k = 0 …, as rows of `out`: uint16 (len(starts) - 1, 1024).

    Tails are zeroed. About 60 M measurements/s on one core.
    """
    _encode_windows(rows, timed, starts, out, *fields.arrays())


@numba.njit(cache=True, nogil=True)
def _encode_windows(
    rows: NDArray[np.int64],
    timed: NDArray[np.bool_],
    starts: NDArray[np.int64],
    out: NDArray[np.uint16],
    src: NDArray[np.uint32],
    seconds: NDArray[np.int64],
    failed: NDArray[np.bool_],
    address_tokens: NDArray[np.uint8],
    dst: NDArray[np.uint32],
    rtt: NDArray[np.uint16],
    order: NDArray[np.uint8],
    src_tokens: NDArray[np.uint16],
    dst_tokens: NDArray[np.uint16],
) -> None:
    for window in range(len(starts) - 1):
        line = out[window]
        at = 0
        clock = np.int64(-1)
        source = np.int64(-1)
        for i in range(starts[window], starts[window + 1]):
            row = rows[i]
            if src[row] != source:
                source = np.int64(src[row])
                clock = np.int64(-1)
            kind = _kind_of_time(seconds[row], clock) if timed[i] else _NO_TIME
            choice = order[row, 0] if timed[i] else order[row, 1] + _WITH_TIME
            ipv6 = address_tokens[source] != 5
            places = _PLACES[choice, int(ipv6), int(failed[row]), kind]

            line[at] = MEASUREMENT_START
            _put_address(line, at + places[_SRC], src_tokens, source, ipv6)
            _put_address(line, at + places[_DST], dst_tokens, dst[row], ipv6)
            to = at + places[_RESULT]
            if failed[row]:
                line[to] = FAILED
            else:
                line[to] = RTT_START
                line[to + 1] = BYTE0 + (rtt[row] >> 8)
                line[to + 2] = BYTE0 + (rtt[row] & 255)
            if timed[i]:
                _put_time(line, at + places[_TIME], kind, seconds[row], clock)
                clock = seconds[row]
            at += places[_END]
        line[at:] = 0


@numba.njit(cache=True, nogil=True, inline="always")
def _kind_of_time(second: np.int64, clock: np.int64) -> int:
    delta = second - clock
    if clock < 0 or delta < 0 or delta > MAX_DELTA:
        return _ABSOLUTE
    return _DELTA1 if delta <= 255 else _DELTA4


@numba.njit(cache=True, nogil=True, inline="always")
def _put_address(
    line: NDArray[np.uint16],
    at: int,
    tokens: NDArray[np.uint16],
    address: np.integer[Any],
    ipv6: bool,
) -> None:
    """Two loops of fixed length, which are compiled to copies of whole words."""
    if ipv6:
        for j in range(17):
            line[at + j] = tokens[address, j]
    else:
        for j in range(5):
            line[at + j] = tokens[address, j]


@numba.njit(cache=True, nogil=True, inline="always")
def _put_time(
    line: NDArray[np.uint16], at: int, kind: int, second: np.int64, clock: np.int64
) -> None:
    value = second if kind == _ABSOLUTE else second - clock
    count = _TIME_BYTES[kind]
    line[at] = _ROLES[kind]
    for k in range(count):
        line[at + 1 + k] = BYTE0 + ((value >> (8 * (count - 1 - k))) & 255)
