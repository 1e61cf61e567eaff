"""Predictors that remember: medians and histories of groups of rows, from train and from the context.

Each looks in one place after another and answers from the first that has an answered row:

    global_median        all rows
    source_median        the source's rows → its context → all rows
    destination_median   the destination → its /24 or /48 → its /16 or /32 → all rows
    pair_median          the pair's rows → those in the context → as `destination_median`
    pair_last            the same, the latest row instead of the median
    pair_average         the same, the exponential average instead of the median
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.evaluate.questions import LEVELS, Forecast, Queries
from stores.rows import Rows, Words, is_ipv4, pair_key

Floats = NDArray[np.float64]
Keys = NDArray[Any]

AVERAGE_GAIN = 1 / 8  # of the newest sample, as in the smoothed RTT of TCP (RFC 6298)
PREFIXES = ((24, 48), (16, 32))  # IPv4 and IPv6 lengths, the finer first
PRIOR_ROWS = 1.0  # weight of a coarser place's failure rate in a finer one, in rows


class Place(Protocol):
    """Where earlier RTTs of a query can be found."""

    def quantiles(self, queries: Queries, levels: Floats) -> Floats:
        """(n, Q) of the answered RTTs there; NaN where there are none."""
        ...

    def counts(self, queries: Queries) -> tuple[Floats, Floats]:
        """(n,) rows there that failed, and all rows there."""
        ...


class Group:
    """Train rows that agree with the query in a key."""

    def __init__(self, keys: Keys, rtt_ms: Floats, key_of: Callable[[Queries], Keys]) -> None:
        """`keys` (rows,) of the train rows; `key_of` gives (n,) those of queries."""
        order = np.lexsort((rtt_ms, keys))  # failures are NaN and come last
        self.sorted = rtt_ms[order]
        self.keys, self.starts, self.rows = np.unique(
            keys[order], return_index=True, return_counts=True
        )
        answered = np.cumsum(np.append(0, ~np.isnan(self.sorted)))
        self.answered = answered[self.starts + self.rows] - answered[self.starts]
        self.key_of = key_of

    def quantiles(self, queries: Queries, levels: Floats) -> Floats:
        found, at = self._find(queries)
        answered = np.where(found, self.answered[at], 0)
        return _sorted_quantiles(self.sorted, self.starts[at], answered, levels)

    def counts(self, queries: Queries) -> tuple[Floats, Floats]:
        found, at = self._find(queries)
        rows = np.where(found, self.rows[at], 0)
        return rows - np.where(found, self.answered[at], 0), rows

    def _find(self, queries: Queries) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        keys = self.key_of(queries)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.keys[at] == keys, at


class Context:
    """Rows of the context, of all destinations or of the queried one."""

    def __init__(self, of_pair: bool) -> None:
        self.of_pair = of_pair

    def quantiles(self, queries: Queries, levels: Floats) -> Floats:
        rtts = queries.context_rtts_of_pair if self.of_pair else queries.context_rtt_ms
        ordered = np.sort(rtts, axis=1)
        starts = np.arange(len(queries)) * rtts.shape[1]
        return _sorted_quantiles(ordered.ravel(), starts, (~np.isnan(rtts)).sum(1), levels)

    def counts(self, queries: Queries) -> tuple[Floats, Floats]:
        used = queries.context_dst >= 0
        if self.of_pair:
            used &= queries.context_dst == queries.dst[:, None]
        failed = used & np.isnan(queries.context_rtt_ms)
        return failed.sum(1), used.sum(1)


def _sorted_quantiles(
    values: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64], levels: Floats
) -> Floats:
    """(n, Q) quantiles of n slices of `values`, each sorted; NaN of an empty one. Linear between."""
    place = np.maximum(counts - 1, 0)[:, None] * levels
    low = place.astype(np.int64)
    high = np.minimum(low + 1, np.maximum(counts - 1, 0)[:, None])
    padded = np.append(values, np.nan)
    at = np.where(counts[:, None] > 0, starts[:, None] + low, len(values))
    above = np.where(counts[:, None] > 0, starts[:, None] + high, len(values))
    between: Floats = padded[at] + (place - low) * (padded[above] - padded[at])
    return between


class PlaceMedian:
    """Empirical distribution of the first place, in order, that holds an answered row.

    The failure probability is each place's rate, pulled towards that of the next coarser place by the
    weight of one row.
    """

    def __init__(self, name: str, places: Sequence[Place], own: int = 1) -> None:
        """What places after the first `own` say counts as a fall-back's answer."""
        self.name = name
        self.places = places
        self.own = own
        self.uses_context = any(isinstance(place, Context) for place in places)

    def predict(self, queries: Queries) -> Forecast:
        quantiles = first_known(self.places, queries, LEVELS)
        p_failed = np.full(len(queries), 0.0)
        for place in reversed(self.places):
            failed, rows = place.counts(queries)
            p_failed = (failed + PRIOR_ROWS * p_failed) / (rows + PRIOR_ROWS)
        fell_back = np.isnan(first_known(self.places[: self.own], queries, LEVELS[:1])[:, 0])
        return Forecast(quantiles[:, len(LEVELS) // 2], quantiles, p_failed, fell_back)


def first_known(places: Sequence[Place], queries: Queries, levels: Floats) -> Floats:
    """(n, Q) quantiles of the first place that has any."""
    quantiles = np.full((len(queries), len(levels)), np.nan)
    for place in places:
        missing = np.flatnonzero(np.isnan(quantiles[:, 0]))
        quantiles[missing] = place.quantiles(queries.take(missing), levels)
    return quantiles


class PairHistory:
    """Exponential average of the pair's answered rows in time order, else of those in the context,
    else the median that `fallback` knows."""

    uses_context = True

    def __init__(self, name: str, train: Rows, gain: float, fallback: PlaceMedian) -> None:
        """`gain` is the weight of each newer row; 1 keeps the last alone."""
        self.name = name
        self.gain = gain
        self.fallback = fallback
        answered = train.take(~train.failed)
        order = np.lexsort((answered.seconds, answered.pair))
        self.pairs, starts, counts = np.unique(
            answered.pair[order], return_index=True, return_counts=True
        )
        group = np.repeat(np.arange(len(counts)), counts)
        newer = (starts + counts - 1)[group] - np.arange(len(order))  # rows of the pair
        oldest = np.arange(len(order)) == starts[group]
        weight = (1.0 - gain) ** newer * np.where(oldest, 1.0, gain)
        self.averages = np.bincount(group, weight * answered.rtt_ms[order], len(counts))

    def predict(self, queries: Queries) -> Forecast:
        pair = pair_key(queries.src, queries.dst)
        at = np.minimum(np.searchsorted(self.pairs, pair), len(self.pairs) - 1)
        value = np.full(len(queries), np.nan)
        for rtt_ms in queries.context_rtts_of_pair.T:  # oldest first
            start = np.where(np.isnan(value), rtt_ms, value)
            value = np.where(np.isnan(rtt_ms), value, start + self.gain * (rtt_ms - start))
        value = np.where(self.pairs[at] == pair, self.averages[at], value)
        fell_back = np.isnan(value)
        missing = np.flatnonzero(fell_back)
        value[missing] = self.fallback.predict(queries.take(missing)).median_ms
        return Forecast(value, fell_back=fell_back)


def fit_histories(train: Rows) -> list[PlaceMedian | PairHistory]:
    """The predictors of this file, fitted on train rows, at least one of them answered."""
    everything = Group(
        np.zeros(len(train), np.int8), train.rtt_ms, lambda q: np.zeros(len(q), np.int8)
    )
    source = Group(train.src, train.rtt_ms, lambda q: q.src)
    target = Group(train.dst, train.rtt_ms, lambda q: q.dst)
    pair = Group(train.pair, train.rtt_ms, lambda q: pair_key(q.src, q.dst))
    coarser = [_prefix_group(train, *lengths) for lengths in PREFIXES]
    of_target: list[Place] = [target, *coarser, everything]
    of_pair: list[Place] = [pair, Context(of_pair=True)]
    pair_median = PlaceMedian("pair_median", [*of_pair, *of_target], own=len(of_pair))
    return [
        PlaceMedian("global_median", [everything]),
        PlaceMedian("source_median", [source, Context(of_pair=False), everything]),
        PlaceMedian("destination_median", of_target),
        pair_median,
        PairHistory("pair_last", train, 1.0, pair_median),
        PairHistory("pair_average", train, AVERAGE_GAIN, pair_median),
    ]


def _prefix_group(train: Rows, ipv4_bits: int, ipv6_bits: int) -> Group:
    """Train rows by the leading bits of their destination."""
    keys = prefix_keys(train.addresses, ipv4_bits, ipv6_bits)
    return Group(keys[train.dst], train.rtt_ms, lambda q: keys[q.dst])


def prefix_keys(addresses: Words, ipv4_bits: int, ipv6_bits: int) -> Words:
    """(n,) uint64, equal for packed addresses (n, 2) of one family that agree in their leading bits,
    at most 32 or 63 of them."""
    high, low = addresses.T
    ipv6 = high >> np.uint64(64 - ipv6_bits) | np.uint64(1 << 63)
    keys: Words = np.where(is_ipv4(addresses), low >> np.uint64(32 - ipv4_bits), ipv6)
    return keys
