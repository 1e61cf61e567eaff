"""Inverse search: are the destinations that a model draws for a target RTT really that far away?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.evaluate.intervals import of_ratio
from model.evaluate.predictors.coordinates import pair_medians
from model.evaluate.predictors.histories import prefix_keys
from model.evaluate.predictors.trained import Addresses, context_of
from model.evaluate.questions import Queries
from model.evaluate.records import SearchScores
from model.inference.ping_model import PingModel
from model.inference.query import MOST_TARGET_MS, SampleQuery
from stores.rows import Rows, Words, is_ipv4, pair_key
from stores.truth import World, pack_addresses

Floats = NDArray[np.float64]

CHUNK = 8  # searches at a time: they take long, and progress should show
WITHIN = 0.2  # of the target RTT: near enough
PREFIX_BITS = (24, 48)  # of IPv4 and IPv6: a neighbourhood


class Searcher(Protocol):
    """Anything that finds destinations at an RTT."""

    name: str

    def search(self, queries: Queries, targets_ms: Floats, count: int, seed: int) -> list[Words]:
        """For each query, up to `count` packed destinations; the query's own destination is not used."""
        ...


class ModelSearcher:
    """Draws of a trained model that is given the query's context."""

    def __init__(
        self, name: str, model: PingModel, answered: Callable[[int], None] = lambda count: None
    ) -> None:
        self.name = name
        self.model = model
        self.answered = answered

    def search(self, queries: Queries, targets_ms: Floats, count: int, seed: int) -> list[Words]:
        addresses = Addresses(queries)
        asked = [
            SampleQuery(
                addresses[queries.src[at]],
                min(float(targets_ms[at]), MOST_TARGET_MS),
                count,
                context_of(queries, at, addresses),
                seed=(seed + at) % 2**32,
                allow_private=True,
            )
            for at in range(len(queries))
        ]
        found = []
        for start in range(0, len(asked), CHUNK):
            found += self.model.sample_ips_batch(asked[start : start + CHUNK])
            self.answered(len(asked[start : start + CHUNK]))
        return [pack_addresses(sample.address for sample in draws) for draws in found]


class ByChance:
    """Destinations of train rows of the source's family, drawn uniformly, whatever the RTT."""

    name = "by_chance"

    def __init__(self, train: Rows) -> None:
        ipv4 = is_ipv4(train.addresses)[train.dst]
        self.rows = {True: train.dst[ipv4], False: train.dst[~ipv4]}

    def search(self, queries: Queries, targets_ms: Floats, count: int, seed: int) -> list[Words]:
        random = np.random.default_rng((seed, 2))
        ipv4 = is_ipv4(queries.addresses)[queries.src]
        families = (self.rows[v4] for v4 in ipv4.tolist())
        draws = [random.choice(rows, count if len(rows) else 0) for rows in families]
        return [queries.addresses[numbers] for numbers in draws]


class KnownRtts(Protocol):
    """Where true RTTs come from."""

    every_pair: bool
    """Whether a destination without an RTT does not exist, rather than just was not measured."""

    def rtt_ms(self, src: Words, dst: Words, seconds: NDArray[np.int64]) -> Floats:
        """(n,) true RTTs in ms between packed addresses (n, 2) each; NaN: unknown."""
        ...


class WorldRtts:
    """Medians of the true distributions of a simulated Internet."""

    every_pair = True

    def __init__(self, world: World) -> None:
        self.world = world

    def rtt_ms(self, src: Words, dst: Words, seconds: NDArray[np.int64]) -> Floats:
        return self.world.distribution(src, dst, seconds).median()


class MeasuredRtts:
    """Median RTTs of the pairs measured in train or test."""

    every_pair = False

    def __init__(self, train: Rows, test: Rows) -> None:
        rows = Rows(
            train.addresses,
            *(
                np.concatenate([getattr(part, name) for part in (train, test)])
                for name in ("src", "dst", "seconds", "rtt_ms")
            ),
        )
        pairs = pair_medians(rows)
        self.median = dict(zip(pair_key(pairs.src, pairs.dst).tolist(), pairs.rtt_ms, strict=True))
        self.number = {tuple(words): at for at, words in enumerate(rows.addresses.tolist())}

    def rtt_ms(self, src: Words, dst: Words, seconds: NDArray[np.int64]) -> Floats:
        a, b = ([self.number.get(tuple(w), -1) for w in words.tolist()] for words in (src, dst))
        pairs = pair_key(np.array(a, np.int64), np.array(b, np.int64)).tolist()
        return np.array([self.median.get(pair, np.nan) for pair in pairs])


def choose_searches(
    queries: Queries, rtt_ms: Floats, count: int, seed: int
) -> tuple[Queries, Floats]:
    """At most `count` answered queries, drawn uniformly, and their RTTs in ms as targets."""
    answered = np.flatnonzero(~np.isnan(rtt_ms))
    random = np.random.default_rng((seed, 3))
    chosen = np.sort(random.choice(answered, min(count, len(answered)), replace=False))
    return queries.take(chosen), rtt_ms[chosen]


def search_report(
    searcher: Searcher,
    queries: Queries,
    targets_ms: Floats,
    count: int,
    truth: KnownRtts,
    train: Rows,
    seed: int = 0,
) -> SearchScores:
    """What `searcher` finds for the sources of `queries` (n,) at `targets_ms` (n,), `count` each.

    `found` counts destinations in total, and the shares are of them. `truth_known`: a true RTT is known.
    `within_20_percent`: the true RTT is that close to the target; if the truth does not know every
    address, this is a share of those with a true RTT. Diversity: `distinct`, different destinations over
    all searches; `distinct_prefixes`, different /24s or /48s within each search, summed. Origin:
    `in_train_prefix` (in a /24 or /48 that has a destination of train), `in_train` (a destination of
    train itself) and `in_context` (a destination of the query's own context).
    """
    draws = searcher.search(queries, targets_ms, count, seed)
    search = np.repeat(np.arange(len(draws)), [len(words) for words in draws])
    found = np.concatenate([np.zeros((0, 2), np.uint64), *draws])  # (found, 2)
    true_ms = truth.rtt_ms(queries.addresses[queries.src][search], found, queries.seconds[search])
    known = ~np.isnan(true_ms)
    near = np.abs(true_ms - targets_ms[search]) <= WITHIN * targets_ms[search]  # NaN: no
    keys = prefix_keys(found, *PREFIX_BITS)
    of_train = train.addresses[np.unique(train.dst)]
    different = [len(np.unique(keys[search == at])) for at in range(len(draws))]
    context = [queries.addresses[row[row >= 0]] for row in queries.context_dst]
    counted = np.ones(len(found), bool) if truth.every_pair else known
    hits, finds = (
        np.bincount(search[rows], minlength=len(draws)).astype(np.float64)
        for rows in (near & counted, counted)
    )
    return SearchScores(
        searches=len(draws),
        found=len(found),
        truth_known=_share(known),
        within_20_percent=_share(near[counted]),
        distinct=len(np.unique(found, axis=0)) / len(found) if len(found) else None,
        distinct_prefixes=sum(different) / len(found) if len(found) else None,
        in_train_prefix=_share(np.isin(keys, prefix_keys(of_train, *PREFIX_BITS))),
        in_train=_share(_contains(of_train, found)),
        in_context=_share(
            np.concatenate(
                [
                    np.zeros(0, bool),
                    *(_contains(a, b) for a, b in zip(context, draws, strict=True)),
                ]
            )
        ),
        intervals={"within_20_percent": of_ratio(hits, finds)} if counted.any() else {},
    )


def _share(true: NDArray[np.bool_]) -> float | None:
    return float(true.mean()) if len(true) else None


def _contains(table: Words, words: Words) -> NDArray[np.bool_]:
    """(n,) whether `table` (a, 2) has each of `words` (n, 2)."""
    rows = set(map(tuple, table.tolist()))
    return np.array([tuple(row) in rows for row in words.tolist()], bool)
