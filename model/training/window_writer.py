"""Writes measurements that stand anywhere in windows as windows of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stores.cut import TokenRows
from stores.vocabulary import (
    BYTE0,
    PAYLOAD_BYTES,
    RTT_START,
    TIMESTAMP_ABS,
    TIMESTAMP_DELTA1,
    TIMESTAMP_DELTA4,
)

ABSOLUTE, DELTA1, DELTA4 = (1 + PAYLOAD_BYTES[role] for role in range(TIMESTAMP_ABS, RTT_START))
"""Tokens of each kind of time, with its role."""
LONGEST_DELTA = 2**32 - 1  # seconds
SIZES = np.array(PAYLOAD_BYTES)

Ints = NDArray[np.int64]


class RowPlaces(NamedTuple):
    """Where measurements stand in some tokens, and when they were made; all (rows,) int64."""

    start: Ints
    end: Ints
    time_at: Ints
    """Position of the time's role token; -1: no time."""
    seconds: Ints
    """Since 1970, of those that have a time; 0 of the others."""


def time_tokens(tokens: NDArray[np.uint16], time_at: Ints) -> Ints:
    """How many tokens the time at each position has, with its role; 0 where that is -1: no time."""
    role = np.minimum(tokens[time_at].astype(np.int64), BYTE0 - 1)
    return np.where(time_at >= 0, 1 + SIZES[role], 0)


def write_windows(
    tokens: NDArray[np.uint16],
    rows: RowPlaces,
    of: Ints,
    timed: NDArray[np.bool_],
    context: int,
) -> TokenRows:
    """The measurements at `rows` of `tokens` (any,), in their order, as windows (W, context) and lengths (W,).

    `of` (rows,), ascending, is the window of each; the caller sees to it that they fit. Times are written
    anew where `timed` (W,), as what has passed since the last one of the window, and left out elsewhere.
    """
    has_time = rows.time_at >= 0
    old = time_tokens(tokens, rows.time_at)
    role, value = _new_times(of, rows.seconds, has_time & timed[of])
    new = np.where(role > 0, 1 + SIZES[role], 0)

    length = rows.end - rows.start
    size = length - old + new
    lengths = np.bincount(of, size, minlength=len(timed)).astype(np.int64)
    row_start = np.cumsum(size) - size
    row_start += of * context - (np.cumsum(lengths) - lengths)[of]
    out = np.zeros(len(timed) * context, np.uint16)

    # All tokens but times: those behind a time move by what it has become longer.
    at = np.repeat(rows.start, length) + _within(length)
    time_at = np.where(has_time, rows.time_at, rows.end)
    after = at >= np.repeat(time_at + old, length)
    kept = after | (at < np.repeat(time_at, length))
    moved = np.where(after, np.repeat(new - old, length), 0)
    target = np.repeat(row_start - rows.start, length) + at + moved
    out[target[kept]] = tokens[at[kept]]

    at_time = row_start + time_at - rows.start
    out[at_time[new > 0]] = role[new > 0]
    for place in range(1, ABSOLUTE):
        written = place < new
        shift = (8 * (new - 1 - place))[written]
        out[at_time[written] + place] = BYTE0 + ((value[written] >> shift) & 0xFF)
    return out.reshape(-1, context), lengths.astype(np.uint16)


def _new_times(of: Ints, seconds: Ints, has_time: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Role and value of each time field, as the tokenizer writes them; role 0: none."""
    role, value = np.zeros(len(of), np.int64), np.zeros(len(of), np.int64)
    timed = np.flatnonzero(has_time)
    now, window = seconds[timed], of[timed]
    passed = np.diff(now, prepend=now[:1])
    absolute = (np.diff(window, prepend=-1) != 0) | (passed < 0) | (passed > LONGEST_DELTA)
    small = np.where(passed < 256, TIMESTAMP_DELTA1, TIMESTAMP_DELTA4)
    role[timed] = np.where(absolute, TIMESTAMP_ABS, small)
    value[timed] = np.where(absolute, now, passed)
    return role, value


def _within(lengths: Ints) -> Ints:
    """0 … length - 1 for each length, one after the other."""
    places: Ints = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return places
