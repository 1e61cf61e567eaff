"""Which test rows are asked, and what a predictor may know about each.

A predictor gets `Queries`: addresses, time and context (earlier rows of the same source), but no answers.
`Questions` keeps the answers, and records which sources and pairs were seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stores.rows import Rows, Words

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CONTEXT_ROWS = 64  # about as many rows of one source as fit into a window

WITHOUT_TIME = "_without_time"
"""Suffix of a model's name when it is asked without timestamps."""
LEVELS = np.arange(1, 200) / 200
"""Probabilities of the quantiles in a `Forecast`: every half percent."""


@dataclass(frozen=True)
class Queries:
    """n queries: arrays (n,), contexts (n, K); addresses are given as row numbers of `addresses`.

    The context of a query is the most recent rows of the same source before its time, oldest first;
    unused places are at the front.
    """

    addresses: Words
    """(addresses, 2) as in `Rows`."""
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    seconds: NDArray[np.int64]
    context_dst: NDArray[np.int32]
    """-1: unused place."""
    context_seconds: NDArray[np.int64]
    context_rtt_ms: Floats
    """NaN: no answer, or unused place."""

    def __len__(self) -> int:
        return len(self.src)

    def take(self, rows: NDArray[np.integer] | Mask | slice) -> Queries:
        """These queries."""
        return Queries(
            self.addresses,
            self.src[rows],
            self.dst[rows],
            self.seconds[rows],
            self.context_dst[rows],
            self.context_seconds[rows],
            self.context_rtt_ms[rows],
        )

    def with_context(self, rows: int) -> Queries:
        """The same with at most that many rows of context, the most recent."""
        start = max(self.context_dst.shape[1] - rows, 0)
        return replace(
            self,
            context_dst=self.context_dst[:, start:],
            context_seconds=self.context_seconds[:, start:],
            context_rtt_ms=self.context_rtt_ms[:, start:],
        )

    @property
    def context_has_pair(self) -> Mask:
        """(n,) whether the context has a row of the queried pair, so that it can be copied."""
        found: Mask = np.any(self.context_dst == self.dst[:, None], axis=1)
        return found

    @property
    def context_rtts_of_pair(self) -> Floats:
        """(n, K): `context_rtt_ms` where the destination is the queried one, else NaN."""
        return np.where(self.context_dst == self.dst[:, None], self.context_rtt_ms, np.nan)


@dataclass(frozen=True)
class Forecast:
    """Answers to n queries; a predictor leaves out what it does not predict."""

    median_ms: Floats
    """(n,) if the ping is answered."""
    quantiles_ms: Floats | None = None
    """(n, 199) at `LEVELS`, if the ping is answered."""
    p_failed: Floats | None = None
    """(n,) probability of no answer."""
    fell_back: Mask | None = None
    """(n,) whether a coarser predictor had to answer, because this one knows nothing of what was asked."""


class Predictor(Protocol):
    """Anything that answers queries: a baseline, the truth, or a trained model."""

    name: str
    uses_context: bool
    """Whether more context can change an answer."""

    def predict(self, queries: Queries) -> Forecast:
        """Answer all queries; every median is finite."""
        ...


@dataclass(frozen=True)
class Questions:
    """Queries with their answers, and whether train has seen their sources and pairs; arrays (n,)."""

    queries: Queries
    rtt_ms: Floats
    """NaN: no answer."""
    seen_source: Mask
    """Whether train has a row of this source."""
    seen_pair: Mask
    """Whether train has a row, answered or not, of this source and destination."""
    candidates: int
    """Test rows that these were drawn from."""

    def groups(self, queries: Queries | None = None) -> dict[str, Mask]:
        """Columns of the tables by name. `seen_sources` and `unseen_sources` add up to `all`, and so do
        `context_has_pair` and `context_lacks_pair`; `seen_pairs` and `unseen_pairs` add up to `seen_sources`.
        `unseen_sources_lack_pair` are those of unseen sources whose context lacks the pair."""
        copies = (queries or self.queries).context_has_pair
        return {
            "all": np.ones(len(self.rtt_ms), bool),
            "seen_pairs": self.seen_pair,
            "unseen_pairs": self.seen_source & ~self.seen_pair,
            "seen_sources": self.seen_source,
            "unseen_sources": ~self.seen_source,
            "context_has_pair": copies,
            "context_lacks_pair": ~copies,
            "unseen_sources_lack_pair": ~self.seen_source & ~copies,
        }


def choose_questions(
    train: Rows, test: Rows, limit: int | None, seed: int = 0, context_rows: int = CONTEXT_ROWS
) -> Questions:
    """A uniform sample of at most `limit` test rows, all if `None`, with their contexts.

    For sources in the training split, context comes from it, however old; for others, it is their own
    earlier test rows. Rows of the query's own second are never context. Costs a sort of all rows.
    """
    asked = np.arange(len(test))
    if limit is not None and limit < len(test):
        asked = np.sort(np.random.default_rng(seed).choice(asked, limit, replace=False))
    rows = test.take(asked)
    seen_source = np.isin(rows.src, train.src)
    context = [
        np.where(seen_source[:, None], of_train, of_test)
        for of_train, of_test in zip(
            _recent(train, rows, context_rows), _recent(test, rows, context_rows), strict=True
        )
    ]
    return Questions(
        Queries(rows.addresses, rows.src, rows.dst, rows.seconds, *context),
        rows.rtt_ms,
        seen_source,
        np.isin(rows.pair, train.pair),
        len(test),
    )


def _recent(history: Rows, rows: Rows, count: int) -> tuple[NDArray[np.int32], ...]:
    """(n, count) destination, seconds and RTT of each row's source's last rows before it."""
    key = _source_time(history)
    order = np.argsort(key, kind="stable")  # stored source by source: nearly sorted
    end = np.searchsorted(key[order], _source_time(rows))
    begin = np.searchsorted(key[order], rows.src.astype(np.int64) << 33)
    place = end[:, None] + np.arange(-count, 0)
    used = place >= begin[:, None]
    at = order[place[used]]
    columns = []
    for values, unused in ((history.dst, -1), (history.seconds, 0), (history.rtt_ms, np.nan)):
        column = np.full(used.shape, unused, values.dtype)
        column[used] = values[at]
        columns.append(column)
    return tuple(columns)


def _source_time(rows: Rows) -> NDArray[np.int64]:
    """A number that sorts rows by source, then time."""
    return rows.src.astype(np.int64) << 33 | rows.seconds  # times end in 2242
