"""Rows and queries written by hand, for tests of what is fitted on rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.evaluate.questions import Forecast, Queries
from stores.rows import Rows
from stores.truth import pack_addresses

Row = tuple[str, str, int, float | None]
"""Source, destination, seconds, RTT in ms or `None`: failed."""


def make_rows(train: Sequence[Row], test: Sequence[Row] = ()) -> tuple[Rows, Rows]:
    """Train and test rows with one address table."""
    every = [*train, *test]
    words = pack_addresses([address for row in every for address in row[:2]])
    addresses, number = np.unique(words, axis=0, return_inverse=True)
    src, dst = number.reshape(-1, 2).astype(np.int32).T
    rows = Rows(
        addresses,
        src,
        dst,
        np.array([row[2] for row in every], np.int64),
        np.array([np.nan if row[3] is None else row[3] for row in every]),
    )
    return rows.take(slice(len(train))), rows.take(slice(len(train), None))


def make_queries(rows: Rows, context: Sequence[Rows] = ()) -> Queries:
    """What these rows ask, with other rows as the contexts of the first of them."""
    places = max((len(of_one) for of_one in context), default=0)
    dst = np.full((len(rows), places), -1, np.int32)
    seconds = np.zeros((len(rows), places), np.int64)
    rtt_ms = np.full((len(rows), places), np.nan)
    for query, earlier in enumerate(context):
        used = slice(places - len(earlier), None)
        dst[query, used], seconds[query, used] = earlier.dst, earlier.seconds
        rtt_ms[query, used] = earlier.rtt_ms
    return Queries(rows.addresses, rows.src, rows.dst, rows.seconds, dst, seconds, rtt_ms)


class Constant:
    """A predictor that says one number, as a baseline's fallback."""

    name = "constant"
    uses_context = False

    def __init__(self, rtt_ms: float) -> None:
        self.rtt_ms = rtt_ms

    def predict(self, queries: Queries) -> Forecast:

        return Forecast(np.full(len(queries), self.rtt_ms))
