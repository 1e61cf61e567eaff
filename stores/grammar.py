"""The grammar of windows over flat arrays: thousands of windows parsed at once, in NumPy alone.

The fast twin of `stores.codec.decode_window`. Role tokens are below `BYTE0` and payload tokens are not,
so the roles of a window are found without reading it from left to right: what lies between two roles
is the payload of the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stores.codec import ORDERS_WITH_TIME, ORDERS_WITHOUT_TIME
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
    TIMESTAMP_DELTA4,
    VOCABULARY_SIZE,
)

ORDERS = (*ORDERS_WITH_TIME, *ORDERS_WITHOUT_TIME)
"""Field orders by number: 24 with time, then 6 without, as indices into `FIELDS`."""
ORDER_NAMES = tuple(" ".join(FIELDS[field] for field in order) for order in ORDERS)

NO_TIME = 0  # `Parsed.time_role` of a measurement without time

_NOTHING = len(FIELDS)  # in place of the fourth field, where a measurement has three
_NO_FIELD = _NOTHING + 1  # what begins no field, which is in no order
_FIELD = np.full(BYTE0, _NO_FIELD, np.uint8)  # field number of each role
for _role, _field in FIELD_OF_ROLE.items():
    _FIELD[_role] = FIELDS.index(_field)
_PAYLOAD = np.array(PAYLOAD_BYTES)
_NO_ORDER = 255
_ORDER_OF_FIELDS = np.full((_NO_FIELD + 1,) * 4, _NO_ORDER, np.uint8)
for _number, _order in enumerate(ORDERS):
    _ORDER_OF_FIELDS[*_order, *[_NOTHING] * (4 - len(_order))] = _number


@dataclass(frozen=True)
class Parsed:
    """Measurements of valid windows, in order, each array (measurements,) unless it says otherwise."""

    window: NDArray[np.int64]
    """Row of the window, in the arrays given to `parse_windows`."""
    order: NDArray[np.uint8]
    """Field order, an index into `ORDERS`."""
    ipv4: NDArray[np.bool_]
    source: NDArray[np.uint64]
    """Hash of the source address."""
    time_role: NDArray[np.uint8]
    """TIMESTAMP_ABS, TIMESTAMP_DELTA1, TIMESTAMP_DELTA4 or `NO_TIME`."""
    failed: NDArray[np.bool_]
    rtt_code: NDArray[np.uint16]
    """(answered,): RTT codes of the measurements that did not fail."""
    role_counts: NDArray[np.int64]
    """(11,): how often each role token occurs."""
    bad: NDArray[np.int64]
    """(bad windows,): rows of the windows that break the grammar; no other array counts them."""


def parse_windows(tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> Parsed:
    """Parse windows (n, 1024) of `lengths` (n,) tokens. Never raises for what they hold: see `Parsed.bad`.

    A window is bad exactly when `decode_window` raises for it. About 4 M measurements/s.
    """
    rows = np.flatnonzero((lengths > 0) & (lengths <= CONTEXT))
    flat = _flatten(tokens, lengths, rows)
    for check in (_Flat.bad_begins, _Flat.bad_payloads, _Flat.bad_fields, _Flat.bad_values):
        bad = check(flat)  # each check relies on those before it
        if bad.size:
            rows = np.delete(rows, bad)
            flat = _flatten(tokens, lengths, rows)
    return flat.parsed(rows, np.setdiff1d(np.arange(len(lengths)), rows, assume_unique=True))


def _flatten(
    tokens: NDArray[np.uint16], lengths: NDArray[np.uint16], rows: NDArray[np.int64]
) -> _Flat:
    if len(rows) != len(tokens):
        tokens, lengths = tokens[rows], lengths[rows]
    return _Flat(tokens[np.arange(CONTEXT, dtype=np.uint16) < lengths[:, None]], lengths)


class _Flat:
    """Windows without their tails, end to end, with the places of their roles."""

    def __init__(self, body: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> None:
        self.body = body
        self.ends = np.cumsum(lengths, dtype=np.int64)
        self.heads = np.flatnonzero(body < BYTE0)
        self.roles = body[self.heads].astype(np.uint8)

    def window_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Window that each place in `body` lies in."""
        return np.searchsorted(self.ends, places, side="right")

    def bad_begins(self) -> NDArray[np.int64]:
        """Windows that do not begin with MEASUREMENT_START: no payload reaches into a good one."""
        begins = np.concatenate(([0], self.ends[:-1])) if len(self.ends) else self.ends
        return np.flatnonzero(self.body[begins] != MEASUREMENT_START)

    def bad_payloads(self) -> NDArray[np.int64]:
        """Windows with an unknown token, a reserved role, or a role without exactly its payload."""
        payload = np.diff(self.heads, append=len(self.body)) - 1
        wrong = (payload != _PAYLOAD[self.roles]) | (self.roles == THROUGHPUT_START)
        unknown = np.flatnonzero(self.body >= VOCABULARY_SIZE)
        return np.unique(self.window_of(np.concatenate([self.heads[wrong], unknown])))

    def bad_fields(self) -> NDArray[np.int64]:
        """Windows where a measurement lacks a field or has one twice."""
        starts, order = self.orders()
        return np.unique(self.window_of(self.heads[starts[order == _NO_ORDER]]))

    def bad_values(self) -> NDArray[np.int64]:
        """Windows where a measurement mixes address families, or a delta precedes any absolute time."""
        sources = np.flatnonzero((self.roles == SRC_IPV4) | (self.roles == SRC_IPV6))
        targets = np.flatnonzero((self.roles == DST_IPV4) | (self.roles == DST_IPV6))
        mixed = (self.roles[sources] == SRC_IPV4) != (self.roles[targets] == DST_IPV4)
        times = np.flatnonzero(self.is_time())
        window = self.window_of(self.heads[times])
        first = np.diff(window, prepend=-1) != 0
        early = window[first & (self.roles[times] != TIMESTAMP_ABS)]
        return np.unique(np.concatenate([self.window_of(self.heads[sources[mixed]]), early]))

    def is_time(self) -> NDArray[np.bool_]:
        return (self.roles >= TIMESTAMP_ABS) & (self.roles <= TIMESTAMP_DELTA4)

    def orders(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Index into `heads` of each MEASUREMENT_START, and the measurement's field order."""
        starts = np.flatnonzero(self.roles == MEASUREMENT_START)
        fields = np.diff(starts, append=len(self.heads)) - 1
        kind = np.append(_FIELD[self.roles], np.full(4, _NO_FIELD, np.uint8))
        last = np.where(fields == 4, kind[starts + 4], np.uint8(_NOTHING))
        order = _ORDER_OF_FIELDS[kind[starts + 1], kind[starts + 2], kind[starts + 3], last]
        order[(fields < 3) | (fields > 4)] = _NO_ORDER
        return starts, order

    def parsed(self, rows: NDArray[np.int64], bad: NDArray[np.int64]) -> Parsed:
        """Measurements of windows that are all good; `rows` are their numbers for the caller."""
        starts, order = self.orders()
        ipv4 = self.roles == SRC_IPV4
        sources = np.flatnonzero(ipv4 | (self.roles == SRC_IPV6))
        time_role = np.full(len(starts), NO_TIME, np.uint8)
        time_role[order < len(ORDERS_WITH_TIME)] = self.roles[self.is_time()]
        results = self.roles[(self.roles == RTT_START) | (self.roles == FAILED)]
        rtts = self.heads[self.roles == RTT_START]
        high, low = self.body[rtts + 1] - BYTE0, self.body[rtts + 2] - BYTE0
        return Parsed(
            window=rows[self.window_of(self.heads[starts])],
            order=order,
            ipv4=ipv4[sources],
            source=self._source_hashes(self.heads[sources], ipv4[sources]),
            time_role=time_role,
            failed=results == FAILED,
            rtt_code=high << np.uint16(8) | low,
            role_counts=np.bincount(self.roles, minlength=BYTE0),
            bad=bad,
        )

    def _source_hashes(
        self, heads: NDArray[np.int64], ipv4: NDArray[np.bool_]
    ) -> NDArray[np.uint64]:
        """Polynomial hash of the payload behind each source role: exact for IPv4."""
        hashes = np.empty(len(heads), np.uint64)
        for family, size in ((True, 4), (False, 16)):
            at = heads[ipv4 == family]
            value = np.zeros(len(at), np.uint64)
            for byte in range(1, size + 1):
                value *= np.uint64(0x100000001B3)  # the FNV prime
                value += self.body[at + byte]
            hashes[ipv4 == family] = value
        return hashes
