"""The windows of a mode: which rows each holds, in what order, and which of them keep their time.

A stream is one source's rows in a shard, in time order. Windows are filled with one stream after another, each
in time order (next-fit); the order of the streams is shuffled. Then, among the rows of one source in a window,

    full    all rows keep their time, and stay in time order
    none    no row keeps its time, and the rows are shuffled
    mixed   a coin decides for each row: those that keep their time stay where they are, the others
            are shuffled among their own places

Every choice is a hash of (seed, pass, mode, source, position in the stream). Token counts do not depend on
the order of rows without time, so shuffling leaves every window as full as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.addresses import Keys, hash_keys
from pipeline.ordering import group_rows
from pipeline.tokenize.encoder import Sizes, fit_windows, mix_word
from stores.hashing import fold
from stores.layout import MODES


@dataclass(frozen=True)
class Streams:
    """Streams of a shard of n rows, sorted by source and time."""

    stream: NDArray[np.uint32]  # (n,) stream of each row, ascending
    position: NDArray[np.uint64]  # (n,) place of each row in its stream
    keys: NDArray[np.uint64]  # (streams,) hash of the source and its first second here


@dataclass(frozen=True)
class Windows:
    """Windows of one mode over a shard of n rows."""

    rows: NDArray[np.int64]  # (n,) rows, window after window
    timed: NDArray[np.bool_]  # (n,) whether that row is written with its time
    starts: NDArray[np.int64]  # (windows + 1,) place in `rows` where each window begins
    lengths: NDArray[np.uint16]  # (windows,) tokens in each


def find_streams(src: NDArray[np.uint32], seconds: NDArray[np.int64], sources: Keys) -> Streams:
    """Streams of rows sorted by source and time; `src` indexes `sources`."""
    new = np.append(True, src[1:] != src[:-1])[: len(src)]
    first = np.flatnonzero(new)
    stream = np.cumsum(new, dtype=np.uint32) - np.uint32(1)
    position = (np.arange(len(src)) - first[stream]).astype(np.uint64)
    keys = fold(hash_keys(sources)[src[first]], seconds[first].astype(np.uint64))
    return Streams(stream, position, keys)


def lay_out(
    sizes: Sizes, streams: Streams, mode: str, seed: int, pass_: int, shuffled: bool = True
) -> Windows:
    """Lay out all rows of a shard in windows of one mode, each row in exactly one.

    Without `shuffled`, the rows of a window are in time order: where it begins and how long it is are the same.
    """
    keys = streams.keys
    for word in (seed, pass_, MODES.index(mode)):
        keys = fold(keys, np.array([word], np.int64).astype(np.uint64))
    place = np.empty(len(keys), np.uint32)
    place[np.argsort(keys, kind="stable")] = np.arange(len(keys), dtype=np.uint32)
    rows = group_rows(place[streams.stream], np.arange(len(streams.stream)), len(keys))

    if mode == "full":
        timed = np.ones(len(rows), np.bool_)
        return Windows(rows, timed, *fit_windows(sizes, rows, timed))
    random = _random_words(rows, keys, streams.stream, streams.position)
    coins = random >= np.uint64(2**63)
    timed = coins if mode == "mixed" else np.zeros(len(rows), np.bool_)
    starts, lengths = fit_windows(sizes, rows, timed)
    if shuffled:
        _shuffle_untimed(rows, timed, starts, sizes.src, random)
    return Windows(rows, timed, starts, lengths)


@numba.njit(cache=True, nogil=True)
def _random_words(
    rows: NDArray[np.int64],
    keys: NDArray[np.uint64],
    stream: NDArray[np.uint32],
    position: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """64 random bits for each row, in the order of `rows`."""
    random = np.empty(len(rows), np.uint64)
    for i in range(len(rows)):
        random[i] = mix_word(keys[stream[rows[i]]], position[rows[i]])
    return random


@numba.njit(cache=True, nogil=True)
def _shuffle_untimed(
    rows: NDArray[np.int64],
    timed: NDArray[np.bool_],
    starts: NDArray[np.int64],
    src: NDArray[np.uint32],
    random: NDArray[np.uint64],
) -> None:
    """Fisher-Yates shuffle, in place, of the rows without time of each (window, source)."""
    places = np.empty(1024, np.int64)
    for window in range(len(starts) - 1):
        begin = starts[window]
        while begin < starts[window + 1]:
            source = src[rows[begin]]
            end = begin
            count = 0
            while end < starts[window + 1] and src[rows[end]] == source:
                if not timed[end]:
                    places[count] = end
                    count += 1
                end += 1
            for i in range(count - 1, 0, -1):
                draw = random[places[i]] & np.uint64(0xFFFFFFFF)
                j = np.int64(draw % np.uint64(i + 1))
                a, b = places[i], places[j]
                rows[a], rows[b] = rows[b], rows[a]
            begin = end
