"""Where one split ends and the next begins, and where each shard does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.addresses import Keys, hash_keys, merge_keys
from pipeline.ordering import distinct_codes
from pipeline.split.ranges import END, WHOLE_STREAM, Edge, Range
from pipeline.split.runs import MICROSECONDS, Run, open_run
from stores.hashing import fold
from stores.layout import SPLITS, WITH_VALIDATION

_FOLD_ENTRIES = 2_000_000
_CUT_BINS = 1 << 16
_RANKED_ROWS = 1 << 22
"""Of a source: so many times are copied and ranked at once, of more the half that has the rank."""


@dataclass(frozen=True)
class Cut:
    """The rule that puts a row into a split. Validation is taken out of train: test is the same without it."""

    by: str  # "time", "source" or "pair"
    test_fraction: float
    second: int | None  # by time: rows from this Unix second on are test
    validation_fraction: float | None = None  # `None`: there is no validation split
    validation_second: int | None = (
        None  # by time: rows from this second to the one before `second`
    )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that rows are put into, in the order of time where the cut is by time."""
        return WITH_VALIDATION if self.validation_fraction else SPLITS

    def split_of(self, run: Run, start: int, stop: int) -> NDArray[np.int8]:
        """The split of each of a run's rows start to stop - 1, as its place in `splits`: (stop - start,)."""
        if self.by == "time":
            time = run.columns["time"][start:stop]
            seconds = [self.second, *([self.validation_second] if self.validation_fraction else [])]
            return _add_up(
                time >= second * MICROSECONDS for second in seconds if second is not None
            )
        shares = [self.test_fraction]
        if self.validation_fraction:
            shares.append(self.test_fraction + self.validation_fraction)
        limits = [np.uint64(share * 2**64) for share in shares]
        src, src_at = distinct_codes(run.src[start:stop], len(run.sources))
        sources = hash_keys(run.sources[src])
        if self.by == "source":
            return _add_up(sources < limit for limit in limits)[src_at]
        dst, dst_at = distinct_codes(run.dst[start:stop], len(run.destinations))
        pairs = fold(sources[src_at], hash_keys(run.destinations[dst])[dst_at])
        return _add_up(pairs < limit for limit in limits)


def _add_up(masks: Iterable[NDArray[np.bool_]]) -> NDArray[np.int8]:
    """How many of the masks hold, for each row."""
    first, *others = masks
    count = first.view(np.int8)
    for mask in others:
        count = count + mask
    return count


def find_cut_second(runs: list[Path], fraction: float) -> int:
    """The Unix second from which on the share of all rows comes closest to `fraction`.

    All rows of a second are on the same side. The result is exact: it is found by histograms of ever finer
    bins, each over the bin of the previous one that contains the cut.
    """
    # every run is mapped again each time: maps that stay open would count as memory once they are read
    spans = [(time.min(), time.max(), len(time)) for time in map(_times, runs)]
    total = sum(rows for _, _, rows in spans)
    wanted = fraction * total
    low = min(int(first) for first, _, _ in spans) // MICROSECONDS
    high = max(int(last) for _, last, _ in spans) // MICROSECONDS + 1
    from_low, from_high = total, 0  # rows from that second on: from_low > wanted >= from_high
    while high - low > 1:
        width = -(-(high - low) // _CUT_BINS)
        rows = np.zeros(_CUT_BINS + 1, np.int64)  # of each bin, then 0
        for time in map(_times, runs):
            inside = time[(time >= low * MICROSECONDS) & (time < high * MICROSECONDS)]
            bins = (inside - low * MICROSECONDS) // (width * MICROSECONDS)
            rows += np.bincount(bins, minlength=_CUT_BINS + 1)
        from_edge = from_high + np.cumsum(rows[::-1])[::-1]  # descending
        bin_ = int(np.flatnonzero(from_edge > wanted)[-1])
        from_low, from_high = int(from_edge[bin_]), int(from_edge[bin_ + 1])
        low, high = low + bin_ * width, min(low + (bin_ + 1) * width, high)
    return high if wanted - from_high <= from_low - wanted else low


def _times(run: Path) -> NDArray[np.int64]:
    return open_run(run).columns["time"]


def plan_shards(
    runs: list[Path], cut: Cut, shards: dict[str, int | None], rows_per_shard: int
) -> dict[str, list[Range]]:
    """The range of each shard, by split; none overlap, and together they have all rows.

    A shard ends between two sources, or inside one if that source alone is larger than a shard. `shards`
    fixes how many shards a split gets; with `None`, each has about `rows_per_shard` rows.
    """
    sources, counts = _count_by_source(runs, cut)
    plan = {}
    for column, split in enumerate(cut.splits):
        bounds = _bounds(counts[:, column], shards[split], rows_per_shard)
        times = _bound_times(runs, sources, counts, column, bounds, cut)
        edges = [
            Edge(sources[bound.source], time) if bound.source < len(sources) else END
            for bound, time in zip(bounds, times, strict=True)
        ]
        plan[split] = [Range(begin, end) for begin, end in pairwise(edges)]
    return plan


_Counts = tuple[Keys, NDArray[np.int64]]
"""Sources, ascending, and their numbers of rows in each split: int64 (sources, splits)."""


def _count_by_source(runs: list[Path], cut: Cut) -> _Counts:
    """All sources and their numbers of rows."""
    splits = len(cut.splits)
    tables: list[_Counts] = []
    added = 0
    for path in runs:
        run = open_run(path)
        split_of = cut.split_of(run, 0, len(run.src))
        rows = np.bincount(run.src, minlength=len(run.sources))
        held_out = [
            np.bincount(run.src[split_of == split], minlength=len(run.sources))
            for split in range(1, splits)
        ]
        tables.append((run.sources.copy(), np.stack([rows - sum(held_out), *held_out], axis=1)))
        added += len(run.sources)
        if added > _FOLD_ENTRIES:
            tables, added = [_add_counts(tables)], 0
    return _add_counts(tables)


def _add_counts(tables: list[_Counts]) -> _Counts:
    """One table for several. Counts are added in place: with millions of sources, each copy is hundreds of MB."""
    keys, where = merge_keys([keys for keys, _ in tables])
    counts = np.zeros((len(keys), tables[0][1].shape[1]), np.int64)
    start = 0
    for own, own_counts in tables:
        counts[where[start : start + len(own)]] += own_counts  # no key is twice in a table
        start += len(own)
    return keys, counts


@dataclass(frozen=True)
class _Bound:
    """Where a shard begins: at a source, and within it at a row of this split (0: its first)."""

    source: int
    row: int


def _bounds(rows: NDArray[np.int64], shards: int | None, rows_per_shard: int) -> list[_Bound]:
    """Ascending bounds of the shards over sources with `rows` rows of this split."""
    total = int(rows.sum())
    count = shards or max(1, round(total / rows_per_shard))
    first = np.concatenate([[0], np.cumsum(rows)])  # first row of each source
    size = total / count
    bounds = [_Bound(0, 0)]
    for k in range(1, count):
        ideal = round(k * size)
        source = int(np.searchsorted(first, ideal, side="right")) - 1
        if source >= len(rows) or rows[source] <= size:  # whole streams: the nearer edge
            edges = np.array([source, min(source + 1, len(rows))])
            source = int(edges[np.argmin(np.abs(first[edges] - ideal))])
            bounds.append(max(_Bound(source, 0), bounds[-1], key=_position))
        else:
            bounds.append(
                max(_Bound(source, ideal - int(first[source])), bounds[-1], key=_position)
            )
    bounds.append(_Bound(len(rows), 0))
    if shards is None:  # nothing between two equal bounds: no shard
        bounds = [bound for bound, after in pairwise(bounds) if bound != after] + bounds[-1:]
    return bounds if len(bounds) > 1 else [_Bound(0, 0), *bounds]


def _position(bound: _Bound) -> tuple[int, int]:
    return bound.source, bound.row


def _bound_times(
    runs: list[Path],
    sources: Keys,
    counts: NDArray[np.int64],
    column: int,
    bounds: list[_Bound],
    cut: Cut,
) -> list[int]:
    """Time in microseconds at which each bound cuts its source, or `WHOLE_STREAM`."""
    times = [WHOLE_STREAM] * len(bounds)
    inside = [i for i, bound in enumerate(bounds) if bound.row]
    for source in sorted({bounds[i].source for i in inside}):
        streams = [_stream_times(open_run(run), sources[source]) for run in runs]
        for i in inside:
            if bounds[i].source != source:
                continue
            rank = bounds[i].row  # among the rows of all splits, of which `time` keeps the order
            if cut.by == "time":
                rank += int(counts[source, :column].sum())
            else:
                rank = rank * int(counts[source].sum()) // int(counts[source, column])
            times[i] = _time_at_rank(streams, rank)
    return times


def _stream_times(run: Run, source: bytes) -> NDArray[np.int64]:
    """Ascending times of one source's rows in a run, possibly none."""
    code = int(np.searchsorted(run.sources, source))
    if code == len(run.sources) or run.sources[code] != source:
        return run.columns["time"][:0]
    start, stop = np.searchsorted(run.src, np.array([code, code + 1], np.uint32))
    return run.columns["time"][start:stop]


def _time_at_rank(streams: list[NDArray[np.int64]], rank: int) -> int:
    """Smallest time with more than `rank` rows up to and including it."""
    streams = [stream for stream in streams if len(stream)]
    while sum(map(len, streams)) > _RANKED_ROWS:
        low, high = min(int(s[0]) for s in streams), max(int(s[-1]) for s in streams)
        if low == high:
            return low
        middle = (low + high) // 2
        places = [int(np.searchsorted(s, middle, side="right")) for s in streams]
        if sum(places) > rank:
            streams = [s[:place] for s, place in zip(streams, places, strict=True) if place]
        else:
            rank -= sum(places)
            rest = zip(streams, places, strict=True)
            streams = [s[place:] for s, place in rest if place < len(s)]
    return int(np.partition(np.concatenate(streams), rank)[rank])
