"""Shorter rows out of windows, for a model whose context is less than a window's 1,024 tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stores.vocabulary import (
    BYTE0,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    TIMESTAMP_ABS,
    TIMESTAMP_DELTA4,
)

TokenRows = tuple[NDArray[np.uint16], NDArray[np.uint16]]
"""Tokens (B, T) and the length of each row (B,), both uint16, in fresh memory."""


def cut_windows(
    tokens: NDArray[np.uint16],
    lengths: NDArray[np.uint16],
    context: int,
    key: tuple[int, int],
) -> TokenRows:
    """One run of whole measurements, at most `context` tokens, out of each window (B, 1024).

    It begins at a measurement drawn evenly from the first up to the last one that still leaves
    (nearly) `context` tokens, and goes on as long as fits; tails are 0. Its first time is made absolute,
    as a window's first time always is. `key` seeds the draw, so epochs see other cuts. Windows no longer
    than `context` stay whole.
    """
    rows, width = tokens.shape
    if context >= width:
        return tokens, lengths
    long = lengths.astype(np.int64)
    position = np.arange(width + 1)
    boundary = np.pad(tokens == MEASUREMENT_START, ((0, 0), (0, 1))) & (position < long[:, None])
    boundary[np.arange(rows), long] = True  # a window's end is a boundary, too

    early = boundary & (position < (long - context)[:, None])
    choice = (np.random.default_rng(key).random(rows) * (early.sum(1) + 1)).astype(np.int64)
    start = np.argmax(np.cumsum(boundary, axis=1) > choice[:, None], axis=1)
    last_boundary = np.maximum.accumulate(np.where(boundary, position, 0), axis=1)

    cut = np.zeros((rows, context), np.uint16)
    cut_lengths = np.empty(rows, np.uint16)
    for row, first in enumerate(start.tolist()):
        time = _cut_off_time(tokens[row], first, min(first + context, int(long[row])))
        growth = 0 if time is None else len(time.tokens) - time.replaced
        end = int(last_boundary[row, min(first + context - growth, long[row])])
        line = tokens[row, first:end]
        if time is not None and first + time.at < end:
            rest = line[time.at + time.replaced :]
            line = np.concatenate([line[: time.at], time.tokens, rest])
        cut[row, : len(line)] = line
        cut_lengths[row] = len(line)
    return cut, cut_lengths


class _Time(NamedTuple):
    """A time field to be written instead of the `replaced` tokens from place `at` of a cut on."""

    at: int
    replaced: int
    tokens: NDArray[np.uint16]


def _cut_off_time(window: NDArray[np.uint16], first: int, last: int) -> _Time | None:
    """The first time among tokens `first` to `last` - 1, as an absolute one, if it counts from one
    that a cut at `first` leaves out."""
    is_time = (window >= TIMESTAMP_ABS) & (window <= TIMESTAMP_DELTA4)  # bytes are above all roles
    times = np.flatnonzero(is_time[:last])
    at = times[np.searchsorted(times, first) :][:1].tolist()
    if not at or window[at[0]] == TIMESTAMP_ABS:
        return None
    clock = 0
    for place in times[times <= at[0]].tolist():
        role = int(window[place])
        payload = window[place + 1 : place + 1 + PAYLOAD_BYTES[role]] - BYTE0
        value = int.from_bytes(payload.astype(np.uint8).tobytes(), "big")
        clock = value if role == TIMESTAMP_ABS else clock + value
    absolute = [TIMESTAMP_ABS, *(BYTE0 + byte for byte in clock.to_bytes(8, "big"))]
    replaced = 1 + PAYLOAD_BYTES[int(window[at[0]])]
    return _Time(at[0] - first, replaced, np.array(absolute, np.uint16))
