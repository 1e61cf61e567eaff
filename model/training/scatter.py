"""Windows for training whose rows are of pairs drawn evenly from the whole split, and of many sources.

What a model knows of a pair that it never saw, it knows from all the others of its source and destination.
The store's windows teach that badly, in two ways. A batch of eight windows has eight sources, and an
optimizer like Adam moves what is known of a source about as far for one row as for twenty. And a few pairs
have most of the rows, so that they are known by heart before the many others have said anything.

A scattered window has one row of each of some pairs: rows that ask (the result comes after both addresses).
A share of these windows is in the order of time, and tells it. Over the steps, all pairs come up about
equally often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.training.compose import TIMED, read_pools
from model.training.window_writer import (
    ABSOLUTE,
    DELTA4,
    LONGEST_DELTA,
    RowPlaces,
    time_tokens,
    write_windows,
)
from stores.cut import TokenRows
from stores.hashing import keyed
from stores.permutation import permute
from stores.sampler import MixtureSampler
from stores.union import Store
from stores.vocabulary import CONTEXT

MODE = "full"  # windows whose rows all have times
MOST_WINDOWS = 1 << 17
"""Windows that are looked through for pairs, at most: some 6 M rows, in about four seconds."""
BLOCK = 512  # windows read at once
BLOCKS_AHEAD = 8  # that the disk is asked for at once
FAR_APART = 4
"""Of so many windows fewer than one is looked through where those between are better not read from the disk."""
WINDOW, ORDER, ROW, TIMES = range(4)  # what is drawn: each has its own numbers
TIMED_UP_TO = np.uint64(TIMED * 2**64)


@dataclass(frozen=True)
class PairRows:
    """Where the rows that ask stand in a split's windows, pair by pair."""

    places: RowPlaces
    """(rows,) each; a position is window · 1024 + position in the window."""
    size: NDArray[np.int64]
    """Tokens of a row without those of its time, (rows,)."""
    first: NDArray[np.int64]
    """The first row of each pair, and the number of rows, (pairs + 1,)."""
    source: NDArray[np.uint64]
    """A hash of each pair's source, (pairs,)."""

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.first) - 1

    @classmethod
    def find(cls, store: Store, split: str) -> PairRows:
        """Look through the windows of a split; of a large one, through `MOST_WINDOWS` of them.

        About 0.8 s per million rows, and 40 bytes for each that asks, 16 for each pair.
        """
        windows = store.windows(split, MODE)
        seen = np.arange(min(windows, MOST_WINDOWS))
        if windows > MOST_WINDOWS:
            seen = np.sort(permute(seen, windows, keyed(WINDOW)))
        lengths = store.lengths(split, MODE)
        pairs, sources, places, sizes = [], [], [], []
        blocks = np.array_split(seen, -(-len(seen) // BLOCK))
        far_apart = windows > FAR_APART * MOST_WINDOWS
        for number, rows in enumerate(blocks):
            if far_apart and number % BLOCKS_AHEAD == 0:
                soon = np.concatenate(blocks[number : number + BLOCKS_AHEAD])
                chunks, offsets = store.locate(split, MODE, soon)
                store.maps.read_ahead(chunks.tolist(), offsets.tolist())
            pool = read_pools(store.gather(split, MODE, rows)[None], lengths[rows][None])
            asks = np.flatnonzero(pool.asks)
            start, end, time_at = pool.start[asks], pool.end[asks], pool.time_at[asks]
            moved = rows[pool.window[asks]] * CONTEXT - pool.window[asks] * CONTEXT
            pairs.append(pool.pair[asks])
            sources.append(pool.source[asks])
            sizes.append(end - start - time_tokens(pool.tokens, time_at))
            seconds = pool.seconds[asks]
            places.append(RowPlaces(start + moved, end + moved, time_at + moved, seconds))
        pair = np.concatenate(pairs)
        order = np.argsort(pair, kind="stable")
        first = np.flatnonzero(np.diff(pair[order], prepend=~pair[order][:1]))
        return cls(
            RowPlaces(*(np.concatenate(field)[order] for field in zip(*places, strict=True))),
            np.concatenate(sizes)[order],
            np.append(first, len(pair)),
            np.concatenate(sources)[order[first]],
        )

    def write(
        self,
        store: Store,
        split: str,
        row: NDArray[np.int64],
        of: NDArray[np.int64],
        timed: NDArray[np.bool_],
        context: int,
    ) -> TokenRows:
        """Some of these rows (n,), in their order, as windows (W, context) and lengths (W,), both uint16.

        `of` (n,), ascending, is the window of each, and `timed` (W,) says which windows keep times.
        """
        places = RowPlaces(*(field[row] for field in self.places))
        window = places.start // CONTEXT
        held, held_at = np.unique(window, return_inverse=True)
        tokens = store.gather(split, MODE, held).ravel()
        moved = (held_at - window) * CONTEXT
        places = places._replace(
            start=places.start + moved, end=places.end + moved, time_at=places.time_at + moved
        )
        return write_windows(tokens, places, of, timed, context)


class Scatterer:
    """Replaces a share of each batch's windows by scattered ones. A pure function of seed and step."""

    def __init__(
        self, sampler: MixtureSampler, rows: PairRows, context: int, seed: int, share: float
    ) -> None:
        """`rows` are those of the sampler's split."""
        self.sampler = sampler
        self.rows = rows
        self.context = context
        self.seed = seed
        self.share = share
        mean_size = self.rows.size.mean() if self.rows.pairs else context
        self.drawn = max(1, int(context / mean_size))
        """Pairs drawn for each window; about half of the windows have no room for the last ones."""

    def replace(self, step: int, tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> None:
        """Write scattered windows over some of a step's rows (B, context), in place."""
        if not self.rows.pairs:  # the few rows of a tiny split all name an address last
            return
        total = self.sampler.batch_size
        first, stop = int(step * total * self.share), int((step + 1) * total * self.share)
        chosen = np.argsort(keyed(self.seed, step, np.arange(total)))[: stop - first]
        begin = self.sampler.shard_index * len(tokens)
        mine = (chosen >= begin) & (chosen < begin + len(tokens))
        if mine.any():
            windows, sizes = self.windows(first + np.flatnonzero(mine))
            rows, some = (
                chosen[mine] - begin,
                sizes > 0,
            )  # none where a context has no room for a row
            tokens[rows[some]], lengths[rows[some]] = windows[some], sizes[some]

    def windows(self, number: NDArray[np.int64]) -> TokenRows:
        """Scattered windows by their number (n,) in the sequence of all: tokens (n, context), lengths (n,)."""
        draw = number[:, None] * self.drawn + np.arange(self.drawn)
        pair = self._pair(draw.ravel())
        begin, stop = self.rows.first[pair], self.rows.first[pair + 1]
        among = keyed(self.seed, ROW, draw.ravel()) % (stop - begin).astype(np.uint64)
        row = (begin + among.astype(np.int64)).reshape(draw.shape)

        seconds = self.rows.places.seconds[row]
        timed = keyed(self.seed, TIMES, number) < TIMED_UP_TO
        timed &= np.ptp(seconds, axis=1) <= LONGEST_DELTA
        size = self.rows.size[row] + np.where(timed, DELTA4, 0)[:, None]
        room = self.context - np.where(timed, ABSOLUTE - DELTA4, 0)  # the first time is absolute
        fits = np.cumsum(size, axis=1) <= room[:, None]
        of, _ = np.nonzero(fits)
        row, seconds = row[fits], np.where(timed[:, None], seconds, 0)[fits]
        row = row[np.lexsort((seconds, of))]

        store, split = self.sampler.store, self.sampler.split
        return self.rows.write(store, split, row, of, timed, self.context)

    def _pair(self, draw: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pair of each draw: all of them once, in an order of their own, before any comes again."""
        epoch, place = np.divmod(draw, self.rows.pairs)
        return permute(place, self.rows.pairs, keyed(self.seed, ORDER, epoch))
