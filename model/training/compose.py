"""Windows composed for training: rows of one source, chosen so that the window asks and rewards more.

A window as the store has it holds its source's rows one after the other. Only a third of them name both
addresses before the result, which is what the model will be asked; and the pair of a row stands among the
source's last ten in 4 % of the rows, so that recalling an earlier RTT of the pair is hardly ever worth
learning. A composed window takes the same rows, from up to eight windows of the store, and leaves most of them out:
those stay that ask, and those whose pair returns. What is left out between two rows also makes the gaps
in time that a real question has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.training.window_writer import ABSOLUTE, DELTA4, RowPlaces, time_tokens, write_windows
from stores.cut import TokenRows
from stores.hashing import keyed
from stores.rows import seconds_of
from stores.sampler import MixtureSampler
from stores.vocabulary import (
    BYTE0,
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

LEAST_FILL = 0.75  # of a composed window; otherwise the window stays as it was
POOL = 8
"""Windows of the store that a composed one draws from, at most: some 400 rows."""
TIMED = 0.35  # share of the composed windows that keep the times that their rows have
PER_PAIR = 4  # rows of one pair that are taken on purpose
OTHERS = 0.25  # share that may be chosen of the rows that name an address after the result
MOST_REPEATS = 0.7  # share of the window that rows of returning pairs may take, at most

# What is drawn: each has its own numbers.
TIMES, REACH, SHARE_OF_REPEATS, OTHER, ROW, PAIR, SOURCE, COMPOSED = range(8)

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Composer:
    """Replaces a share of each batch's windows by composed ones. A pure function of seed and step."""

    def __init__(self, sampler: MixtureSampler, context: int, seed: int, share: float):
        self.sampler = sampler
        self.context = context
        self.seed = seed
        self.share = share

    def replace(self, step: int, tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> None:
        """Write composed windows over some of a step's rows (B, context), in place."""
        first = self.sampler.shard_index * len(tokens)
        keys = keyed(self.seed, step, np.arange(first, first + len(tokens)))
        rows = np.flatnonzero(_draw(keys, COMPOSED) < self.share)
        if not len(rows):
            return
        pool = read_pools(*self.sampler.following(step, rows, POOL))
        chosen, timed = choose_rows(pool, keys[rows], self.context)
        composed, composed_lengths = compose(pool, chosen, timed, self.context)
        full = composed_lengths >= LEAST_FILL * self.context  # not so where a source has few rows
        tokens[rows[full]], lengths[rows[full]] = composed[full], composed_lengths[full]


@dataclass(frozen=True)
class Pool:
    """The measurements of P pools of windows, in order; every array is (measurements,)."""

    tokens: NDArray[np.uint16]
    """Of all pools together, one after the other, (tokens,)."""
    pool: Ints
    """Counted from 0, ascending."""
    window: Ints
    """Of the pool, counted from 0."""
    start: Ints
    end: Ints
    """Where a measurement lies in `tokens`."""
    source: NDArray[np.uint64]
    pair: NDArray[np.uint64]
    """Hashes of the source, and of source and destination."""
    asks: Mask
    """Whether the result comes after both addresses."""
    time_at: Ints
    """Position of the time's role token in `tokens`; -1: no time."""
    seconds: Ints
    """Since 1970, of those that have a time; 0 of the others."""


def read_pools(tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> Pool:
    """The measurements of pools of windows (P, W, 1024) with lengths (P, W), all valid windows."""
    pools, windows, width = tokens.shape
    flat = tokens.reshape(-1)
    window_end = np.arange(pools * windows) * width + lengths.reshape(-1).astype(np.int64)
    position = np.arange(len(flat))
    live = position < np.repeat(window_end, width)
    is_role = live & (flat < BYTE0)
    start = np.flatnonzero(is_role & (flat == MEASUREMENT_START))
    window = start // width
    end = np.minimum(np.append(start[1:], len(flat)), window_end[window])

    role_at = np.flatnonzero(is_role & (flat != MEASUREMENT_START))
    role = flat[role_at]
    of = np.searchsorted(start, role_at, side="right") - 1

    def place(*roles: int) -> Ints:
        """Where each measurement has one of these roles; -1: nowhere."""
        at = np.full(len(start), -1)
        found = np.isin(role, roles)
        at[of[found]] = role_at[found]
        return at

    source_at, destination_at = place(SRC_IPV4, SRC_IPV6), place(DST_IPV4, DST_IPV6)
    time_at = place(TIMESTAMP_ABS, TIMESTAMP_DELTA1, TIMESTAMP_DELTA4)
    source, destination = _hash_address(flat, source_at), _hash_address(flat, destination_at)
    seconds = np.zeros(len(start), np.int64)
    seconds[time_at >= 0] = seconds_of(flat, role_at, role)
    return Pool(
        tokens=flat,
        pool=window // windows,
        window=window % windows,
        start=start,
        end=end,
        source=source,
        pair=source * np.uint64(0x9E3779B97F4A7C15) + destination,
        asks=place(RTT_START, FAILED) > np.maximum(source_at, destination_at),
        time_at=time_at,
        seconds=seconds,
    )


def choose_rows(pool: Pool, keys: NDArray[np.uint64], room: int) -> tuple[Mask, Mask]:
    """Which measurements make up each pool's window: one source's, at most `room` tokens.

    A pure function of the pool and of its key in `keys` (P,). Returns the choice (measurements,), and
    whether each window keeps its times (P,).
    """
    pools, of = len(keys), pool.pool
    index = np.arange(len(of)) - np.searchsorted(of, of)  # in its own pool
    timed = _draw(keys, TIMES) < TIMED
    reach = 2 ** (_draw(keys, REACH) * (POOL.bit_length())).astype(np.int64)  # 1, 2, 4 or 8 windows
    share = _draw(keys, SHARE_OF_REPEATS) * MOST_REPEATS

    has_time = (pool.time_at >= 0) & timed[of]
    mine = (pool.source == pool.source[_first_row(pool, keys)][of]) & (pool.window < reach[of])
    mine &= ~has_time | _ascending(of, pool.seconds, mine & has_time)
    old = time_tokens(pool.tokens, pool.time_at)
    size = pool.end - pool.start - old + np.where(has_time, DELTA4, 0)
    budget = (room - np.where(timed, ABSOLUTE - DELTA4, 0)).astype(
        np.float64
    )  # first time: absolute

    wanted = mine & (pool.asks | (_draw(keys[of], OTHER, index) < OTHERS))
    draw = _draw(keys[of], ROW, index)
    pair_draw = _draw(keys[of], PAIR, pool.pair)  # one for all rows of a pair
    order = np.lexsort((draw, ~wanted, pair_draw, of))
    pair, place = _runs(order, of, pair_draw)
    many = np.bincount(pair, wanted) > 1

    repeats = wanted & many[pair] & (place < PER_PAIR)
    order = np.lexsort((pair_draw, ~repeats, of))
    repeats = _fitting(of, order, repeats, size, share * budget)

    left = budget - np.bincount(of[repeats], size[repeats], minlength=pools)
    rest = mine & ~repeats
    # One row of every other pair, so that frequent pairs do not crowd out the rare ones.
    once = wanted & (place == 0) & (np.bincount(pair, repeats) == 0)[pair]
    order = np.lexsort((draw, ~wanted, ~once, ~rest, of))
    chosen: Mask = repeats | _fitting(of, order, rest, size, left)
    return chosen, timed


def compose(pool: Pool, chosen: Mask, timed: Mask, context: int) -> TokenRows:
    """The chosen measurements of each pool as one valid window: tokens (P, context), lengths (P,).

    Their order is that of the store. Times are written anew where `timed` (P,), and left out elsewhere.
    """
    rows = np.flatnonzero(chosen)
    places = RowPlaces(pool.start[rows], pool.end[rows], pool.time_at[rows], pool.seconds[rows])
    return write_windows(pool.tokens, places, pool.pool[rows], timed, context)


def _hash_address(flat: NDArray[np.uint16], role_at: Ints) -> NDArray[np.uint64]:
    """A hash of each address, given where its role token stands; version and bytes count."""
    role = flat[role_at].astype(np.int64)
    size = np.array(PAYLOAD_BYTES)[role]
    total = size.astype(np.uint64)
    for place in range(1, max(PAYLOAD_BYTES) + 1):
        has = place <= size
        byte = flat[np.where(has, role_at + place, 0)].astype(np.uint64)
        total = np.where(has, (total ^ byte) * np.uint64(0x100000001B3), total)
    return total


def _fitting(of: Ints, order: Ints, allowed: Mask, size: Ints, budget: NDArray[Any]) -> Mask:
    """In each pool, the first of the allowed in `order` (sorted by pool, allowed first) that fit."""
    taken = np.where(allowed, size, 0)[order].astype(np.float64)
    total = np.cumsum(taken)
    first = np.searchsorted(of[order], np.arange(len(budget)))
    before = np.append(0.0, total)[first]
    fits = np.zeros(len(of), bool)
    fits[order] = total - before[of[order]] <= budget[of[order]]
    return fits & allowed


def _first_row(pool: Pool, keys: NDArray[np.uint64]) -> Ints:
    """A measurement drawn from the first window of each pool."""
    first = np.flatnonzero(pool.window == 0)
    begin, stop = (
        np.searchsorted(pool.pool[first], np.arange(len(keys)), side) for side in ("left", "right")
    )
    drawn: Ints = first[begin + (_draw(keys, SOURCE) * (stop - begin)).astype(np.int64)]
    return drawn


def _ascending(of: Ints, seconds: Ints, timed: Mask) -> Mask:
    """Which of the timed rows of a pool are not earlier than one before them, nor a delta's whole range
    later than the first: so that only the first time of a window is absolute."""
    clock = np.where(timed, seconds, 0) + (of << 40)
    latest = np.maximum.accumulate(clock)
    first = np.full(of[-1] + 1, 2**40)
    np.minimum.at(first, of[timed], seconds[timed])
    ascending: Mask = (clock == latest) & (seconds < first[of] + 2**32)
    return ascending


def _draw(keys: NDArray[np.uint64], what: int, *words: NDArray[np.integer]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), a pure function of their key, what is drawn, and the words."""
    return (keyed(keys, what, *words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _runs(order: Ints, *columns: NDArray[Any]) -> tuple[Ints, Ints]:
    """The number of each row's run of rows equal in all columns, and its place there, both (n,).

    `order` sorts the rows so that equal ones are side by side.
    """
    same = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
    starts = np.append(True, ~same)
    begin = np.flatnonzero(starts)
    run, place = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    run[order] = np.cumsum(starts) - 1
    place[order] = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
    return run, place
