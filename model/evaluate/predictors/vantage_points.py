"""The known vantage points with the most similar RTTs to the same destinations vote on an RTT.

A vantage point is a place that pings others: here, a source.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.evaluate.predictors.coordinates import Pairs
from model.evaluate.predictors.histories import Context
from model.evaluate.questions import Floats, Forecast, Predictor, Queries

VOTERS = 3
PRIOR = 0.1
"""Mean squared difference of log RTTs between strangers, which counts as one common destination."""

MAX_CELLS = 1 << 24  # of the matrix of vantage points × destinations
_BATCH_CELLS = 1 << 22

Floats32 = NDArray[np.float32]


class NearestVantagePoints:
    """The RTT that the most similar known vantage points have to the same destination.

    Two sources are as far apart as the mean squared difference of their log RTTs to the destinations
    that both measured. The nearest three that measured the queried destination vote: the mean of their
    log RTTs, weighted by the inverse of the distance. A source that train does not have is
    compared by its context. A pair that was measured, in train or in the context, is answered by its own
    median; where nobody can vote, `fallback` answers.
    """

    name = "nearest_vantage"
    uses_context = True

    def __init__(self, pairs: Pairs, addresses: int, fallback: Predictor) -> None:
        """Keeps a matrix of vantage points × destinations; if it grows too large, only of the vantage points
        with the most pairs."""
        self.pairs = pairs
        self.context = Context(of_pair=True)
        self.fallback = fallback
        targets = np.unique(pairs.dst)
        sources, counts = np.unique(pairs.src, return_counts=True)
        most = np.argsort(-counts, kind="stable")[: max(1, MAX_CELLS // len(targets))]
        self.row = np.full(addresses, -1)
        self.row[sources[most]] = np.arange(len(most))
        self.column = np.full(addresses, -1)
        self.column[targets] = np.arange(len(targets))
        self.log_rtt = np.zeros((len(most), len(targets)), np.float32)
        self.measured = np.zeros((len(most), len(targets)), np.float32)
        kept = self.row[pairs.src] >= 0
        at = self.row[pairs.src[kept]], self.column[pairs.dst[kept]]
        self.log_rtt[at] = np.log(pairs.rtt_ms[kept])
        self.measured[at] = 1

    def predict(self, queries: Queries) -> Forecast:
        """Medians only: no distribution, and no failure probability."""
        in_context = self.context.quantiles(queries, np.array([0.5]))[:, 0]
        of_train = self.pairs.find(queries.src, queries.dst)
        rtt_ms = np.where(np.isnan(of_train), in_context, of_train)
        new = np.flatnonzero(np.isnan(rtt_ms) & (self.column[queries.dst] >= 0))
        batch = max(1, _BATCH_CELLS // max(self.log_rtt.shape))
        for start in range(0, len(new), batch):
            rows = new[start : start + batch]
            rtt_ms[rows] = self._vote(queries.take(rows))
        fell_back = np.isnan(rtt_ms)
        missing = np.flatnonzero(fell_back)
        rtt_ms[missing] = self.fallback.predict(queries.take(missing)).median_ms
        return Forecast(rtt_ms, fell_back=fell_back)

    def _vote(self, queries: Queries) -> Floats:
        """(n,) vote of the nearest in ms; NaN without voters, or without common destinations."""
        log_rtt, measured = self._profiles(queries)
        squares = log_rtt**2 @ self.measured.T + measured @ (self.log_rtt**2).T
        squares -= 2 * log_rtt @ self.log_rtt.T
        common = measured @ self.measured.T
        distance = (np.maximum(squares, 0) + PRIOR) / (common + 1)  # (n, vantage points)
        target = self.column[queries.dst]
        distance[(self.measured[:, target].T == 0) | (common == 0)] = np.inf
        voters = np.argsort(distance, axis=1)[:, :VOTERS]
        weight = 1 / np.take_along_axis(distance, voters, 1)
        with np.errstate(invalid="ignore"):  # 0 / 0: nobody votes
            vote = (weight * self.log_rtt[voters, target[:, None]]).sum(1) / weight.sum(1)
        rtt_ms: Floats = np.exp(vote)
        return rtt_ms

    def _profiles(self, queries: Queries) -> tuple[Floats32, Floats32]:
        """(n, destinations) log RTTs of each query's source, 0 where unmeasured, and where measured."""
        known = self.row[queries.src]
        log_rtt = np.where(known[:, None] >= 0, self.log_rtt[known], 0)
        measured = np.where(known[:, None] >= 0, self.measured[known], 0)
        column = np.where(queries.context_dst >= 0, self.column[queries.context_dst], -1)
        live = (known < 0)[:, None] & (column >= 0) & ~np.isnan(queries.context_rtt_ms)
        at = np.nonzero(live)[0], column[live]  # of one destination's rows the newest, written last
        log_rtt[at] = np.log(queries.context_rtt_ms[live])
        measured[at] = 1
        return log_rtt, measured
