"""Many pairs at once: each is asked with the last measurements of its source, and the answers keep their order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

from model.inference.checks import parse_address, parse_time
from model.inference.grounds import find_grounds
from model.inference.prediction import QUANTILES, RttPrediction
from model.inference.prompts import PAIR_ROWS, SHORTEST_MEASUREMENT
from model.inference.query import RttQuery, context_used
from stores.codec import Address, Measurement
from stores.errors import QueryError
from stores.measurements.given import Given, cut
from stores.printable import printable
from stores.provenance import Provenance

ROWS_AT_ONCE = 1024
"""Pairs that are sorted by the length of their prompts, so that full batches are of one length."""
PREDICTIONS_AT_ONCE = 64
"""Each takes 0.5 MiB, and twice that while it is summed up."""
MEDIAN = 0.5

QUANTILE_COLUMNS = {f"q{level:g}_ms": level for level in QUANTILES if level != MEDIAN}
COLUMNS: dict[str, type] = {
    "src": str,
    "dst": str,
    "time": int,
    "context_used": int,
    "p_failed": float,
    "median_ms": float,
    "mean_ms": float,
    **dict.fromkeys(QUANTILE_COLUMNS, float),
    "data": str,
    "unmet_prefixes": str,
    "problem": str,
}
"""Of an answer, and their types. `data` and `unmet_prefixes` are what it rests on, as in `Grounds`. Where
there is a `problem`, everything else but the addresses is `None`."""

Answer = dict[str, Any]


class Predictor(Protocol):
    """What of `PingModel` is used here."""

    config: Any
    provenance: Provenance | None

    def predict_rtt_batch(self, queries: Sequence[RttQuery]) -> list[RttPrediction]:
        """A prediction for each query."""
        ...


class Pair(NamedTuple):
    """A pair to ask about, as it was given; no query, but a problem, if it cannot be asked."""

    src: str | None
    dst: str | None
    query: RttQuery | None
    problem: str | None
    kind: str = ""
    """Of the problem: the wrong field, "row" for a row that cannot be read, or a reason of `prepare`."""


def pairs_of(
    rows: Iterable[Given], time: float | None = None, allow_private: bool = False
) -> Iterator[Pair]:
    """A pair for each row, at the row's own time or else at `time` (Unix seconds)."""
    for row in rows:
        src, dst = (_text(row.values.get(name)) for name in ("src", "dst"))
        if row.problem is not None:
            kind = "row" if " " in row.problem else row.problem
            yield Pair(src, dst, None, row.problem, kind)
            continue
        own = row.values.get("time")
        try:
            query = RttQuery(
                parse_address("src", row.values.get("src")),
                parse_address("dst", row.values.get("dst")),
                parse_time("time", time if own is None else own),
                allow_private=allow_private,
            )
        except QueryError as error:
            yield Pair(src, dst, None, str(error), error.field)
        else:
            yield Pair(str(query.src), str(query.dst), query, None)


def matrix_of(pairs: Iterable[Pair], time: float | None = None) -> Iterator[Pair]:
    """Every source of the pairs with every destination of its family, in the order in which they first appear."""
    second = parse_time("time", time)
    asked = [pair.query for pair in pairs if pair.query is not None]
    allow_private = any(query.allow_private for query in asked)
    destinations = dict.fromkeys(query.dst for query in asked)
    for src in dict.fromkeys(query.src for query in asked):
        for dst in destinations:
            if src.version == dst.version:
                query = RttQuery(src, dst, second, allow_private=allow_private)
                yield Pair(str(src), str(dst), query, None)


class Contexts:
    """For each source that is asked about, its last measurements, and the last few of each pair.

    By time; what has none counts as the oldest. Takes about 300 bytes for each that is kept.
    """

    def __init__(self, asked: Iterable[Pair], window: int) -> None:
        """`window` is the model's context in tokens: no more than fit into it are kept."""
        self._room = window // SHORTEST_MEASUREMENT
        self._of_source: dict[Address, list[tuple[int, int, Measurement]]] = {}
        self._of_pair: dict[tuple[Address, Address], list[tuple[int, int, Measurement]]] = {}
        for pair in asked:
            if pair.query is not None:
                self._of_source.setdefault(pair.query.src, [])
                self._of_pair.setdefault((pair.query.src, pair.query.dst), [])
        self.seen = 0
        """Measurements so far, also those that were not kept."""

    def add(self, measurement: Measurement) -> None:
        """Take one more measurement."""
        self.seen += 1
        item = (measurement.time or 0, self.seen, measurement)
        for kept, most in (
            (self._of_source.get(measurement.src), self._room),
            (self._of_pair.get((measurement.src, measurement.dst)), PAIR_ROWS),
        ):
            if kept is not None:
                (heapq.heappush if len(kept) < most else heapq.heappushpop)(kept, item)

    def of(self, query: RttQuery) -> list[Measurement]:
        """The measurements for a query, oldest first."""
        both = self._of_source[query.src] + self._of_pair[query.src, query.dst]
        kept = {number: (time, number, measurement) for time, number, measurement in both}
        return [measurement for _, _, measurement in sorted(kept.values())]


def answer_pairs(
    model: Predictor, pairs: Iterable[Pair], contexts: Contexts | None = None
) -> Iterator[list[Answer]]:
    """Answers by the names of `COLUMNS`, in the order of the pairs, `ROWS_AT_ONCE` at a time."""
    remaining = iter(pairs)
    while chunk := list(islice(remaining, ROWS_AT_ONCE)):
        yield _answer(model, chunk, contexts)


def _answer(model: Predictor, chunk: Sequence[Pair], contexts: Contexts | None) -> list[Answer]:
    answers = [
        dict.fromkeys(COLUMNS) | {"src": p.src, "dst": p.dst, "problem": p.problem} for p in chunk
    ]
    queries = {}
    for at, pair in enumerate(chunk):
        if pair.query is not None:
            earlier = contexts.of(pair.query) if contexts else ()
            queries[at] = replace(pair.query, context=earlier) if earlier else pair.query
    by_length = sorted(
        queries, key=lambda at: (len(queries[at].context), queries[at].src.version, at)
    )
    for start in range(0, len(by_length), PREDICTIONS_AT_ONCE):
        asked = by_length[start : start + PREDICTIONS_AT_ONCE]
        found = model.predict_rtt_batch([queries[at] for at in asked])
        for at, prediction in zip(asked, found, strict=True):
            grounds = find_grounds(model.provenance, queries[at])
            answers[at] |= _summary(queries[at], prediction, model.config.context) | {
                "data": grounds.data,
                "unmet_prefixes": " ".join(grounds.unmet_prefixes.values()) or None,
            }
    return answers


def _summary(query: RttQuery, prediction: RttPrediction, window: int) -> Answer:
    quantiles = prediction.quantile(list(QUANTILE_COLUMNS.values())).tolist()
    return {
        "time": query.time,
        "context_used": context_used(query, window) if query.context else 0,
        "p_failed": prediction.p_failed,
        "median_ms": prediction.median_ms,
        "mean_ms": prediction.mean_ms,
        **dict(zip(QUANTILE_COLUMNS, quantiles, strict=True)),
    }


def _text(value: Any) -> str | None:
    """An address as it was given, for the answer."""
    return None if value is None else printable(cut(str(value)))
