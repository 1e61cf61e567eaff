"""Shorter rows cut from windows, for a model whose context is shorter than a window's 1,024 tokens."""

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
    first: int = 0,
) -> TokenRows:
    """Cut a run of whole measurements, at most `context` tokens long, from each window (B, 1024).

    A cut begins at a measurement drawn uniformly, from the first to the last one that is followed by
    (nearly) `context` tokens, and holds as many measurements as fit; tails are 0. Its first time is
    made absolute, as the first time of a window always is. `key` seeds the draw, so that each epoch
    sees different cuts; `first` is the place of the first of these windows in their batch, so that a
    part of a batch is cut as the whole one is. Windows no longer than `context` stay whole. Returns
    tokens (B, `context`) and lengths (B,), both uint16; the arguments themselves where `context` is at
    least 1024.
    """
    rows, width = tokens.shape
    if context >= width:
        return tokens, lengths
    long = lengths.astype(np.int64)
    position = np.arange(width + 1)
    boundary = np.pad(tokens == MEASUREMENT_START, ((0, 0), (0, 1))) & (position < long[:, None])
    boundary[np.arange(rows), long] = True  # the end of a window is a boundary, too

    early = boundary & (position < (long - context)[:, None])
    drawn = np.random.default_rng(key).random(first + rows)[first:]
    choice = (drawn * (early.sum(1) + 1)).astype(np.int64)
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
    """A time field that replaces the `replaced` tokens of a cut from position `at`."""

    at: int
    replaced: int
    tokens: NDArray[np.uint16]


def _cut_off_time(window: NDArray[np.uint16], first: int, last: int) -> _Time | None:
    """The first time among tokens `first` to `last` - 1, made absolute, if it is a delta from a time
    that a cut at `first` leaves out; otherwise `None`."""
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
