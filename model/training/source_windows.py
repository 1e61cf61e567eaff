"""Windows of one source each, from which a placement learns what a few measurements say of a vantage point.

A window of the store has a few pairs again and again, and a batch has few sources. What a placement needs is
the opposite: many sources a step, and of each one as many destinations as fit, every source alike. It is far
cheaper than the transformer, so it can have many more windows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.training.scatter import PairRows
from stores.hashing import keyed
from stores.permutation import permute
from stores.sampler import MixtureSampler

LONGEST = 512
"""Tokens of a window, at most: some 36 rows, and what a solution costs grows with their third power."""
AMONG = 1024
"""Pairs that those of a window are drawn from, at most. They lie in the order of a hash, so any will do."""
ORDER, START, PAIR, ROW = range(8, 12)
"""What is drawn: each has numbers of its own, other than those of `model.training.scatter`."""


class SourceWindows:
    """Some windows for each step. A pure function of seed and step."""

    def __init__(
        self, sampler: MixtureSampler, rows: PairRows, context: int, seed: int, count: int
    ) -> None:
        """`rows` are those of the sampler's split, and `count` the windows of a step over all of its shards."""
        self.sampler = sampler
        self.rows = rows
        self.context = min(context, LONGEST)
        self.seed = seed
        self.count = count
        self.pairs = np.argsort(rows.source, kind="stable")  # source by source
        by_source = rows.source[self.pairs]
        begin = np.flatnonzero(np.diff(by_source, prepend=~by_source[:1]))
        size = np.diff(begin, append=len(by_source))
        # A single pair says nothing of another.
        self.begin, self.size = begin[size > 1], size[size > 1]

    def batch(self, step: int) -> NDArray[np.uint16]:
        """Tokens (W, context) of this shard's part of a step's windows, 0 behind each window's end.

        Each has different pairs of one source, in any order and without times. All sources that have more
        than one pair come up once before any comes again; where there is none, the windows are empty.
        """
        shard, shards = self.sampler.shard_index, self.sampler.shard_count
        mine = self.count // shards
        tokens = np.zeros((mine, self.context), np.uint16)
        if not len(self.size):
            return tokens
        number = step * self.count + shard * mine + np.arange(mine)
        chosen = [self._rows_of(int(one)) for one in number]
        of = np.repeat(np.arange(mine), [len(rows) for rows in chosen])
        store, split = self.sampler.store, self.sampler.split
        timed = np.zeros(mine, bool)
        return self.rows.write(store, split, np.concatenate(chosen), of, timed, self.context)[0]

    def _rows_of(self, number: int) -> NDArray[np.int64]:
        """The rows of a window, by its number in the sequence of all."""
        epoch, place = divmod(number, len(self.size))
        source = permute(place, len(self.size), keyed(self.seed, ORDER, epoch))[0]
        count = int(self.size[source])
        start = int(keyed(self.seed, START, number)[0] % np.uint64(count))
        among = (start + np.arange(min(count, AMONG))) % count
        drawn = among[np.argsort(keyed(self.seed, PAIR, number, among))]
        pair = self.pairs[self.begin[source] + drawn]
        begin, stop = self.rows.first[pair], self.rows.first[pair + 1]
        which = keyed(self.seed, ROW, number, pair) % (stop - begin).astype(np.uint64)
        row = begin + which.astype(np.int64)
        fitting: NDArray[np.int64] = row[np.cumsum(self.rows.size[row]) <= self.context]
        return fitting
