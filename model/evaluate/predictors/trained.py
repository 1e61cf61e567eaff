"""A trained model as one more `Predictor`: a query and its context become a prompt, and the model's exact
distribution becomes a forecast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import numpy as np
from numpy.typing import NDArray

from model.evaluate.questions import LEVELS, WITHOUT_TIME, Forecast, Queries
from model.inference.ping_model import PingModel
from model.inference.prediction import RttPrediction
from model.inference.query import RttQuery
from stores.codec import Address, Measurement, encode_rtts

Floats = NDArray[np.float64]

CHUNK = 64  # queries: a prediction holds its 65,536 probabilities, half a MiB
LEAST_PROBABILITY = 1e-12  # so that one outcome thought impossible does not make a mean infinite


class ModelPredictor:
    """Asks a model every query with its context, as much of it as fits into the model's window.

    It is asked with timestamps or without: a query may come long after its context, after a longer gap
    than the model has seen between two rows.
    """

    uses_context = True

    def __init__(
        self,
        name: str,
        model: PingModel,
        answered: Callable[[int], None] = lambda count: None,
        with_time: bool = True,
    ) -> None:
        """`answered` is called with the number of queries answered since its last call."""
        self.name = name if with_time else name + WITHOUT_TIME
        self.model = model
        self.answered = answered
        self.with_time = with_time

    def predict(self, queries: Queries) -> Forecast:
        """Median, quantiles and P(failed) of each query's exact distribution."""
        median = np.empty(len(queries))
        quantiles = np.empty((len(queries), len(LEVELS)))
        p_failed = np.empty(len(queries))
        for at, prediction in enumerate(self._predictions(queries)):
            median[at] = prediction.median_ms
            quantiles[at] = prediction.quantile(LEVELS)
            p_failed[at] = prediction.p_failed
        return Forecast(median, quantiles, p_failed)

    def result_nats(self, queries: Queries, rtt_ms: Floats) -> tuple[Floats, Floats]:
        """-log P of each query's result (n,) in nats, and the predicted medians (n,) in ms.

        `rtt_ms` (n,) are the results, NaN for no answer."""
        failed = np.isnan(rtt_ms)
        code = encode_rtts(np.where(failed, 0.0, rtt_ms))
        probability, median = np.empty(len(queries)), np.empty(len(queries))
        for at, prediction in enumerate(self._predictions(queries)):
            answered = (1 - prediction.p_failed) * prediction.code_probabilities[code[at]]
            probability[at] = prediction.p_failed if failed[at] else answered
            median[at] = prediction.median_ms
        return -np.log(np.maximum(probability, LEAST_PROBABILITY)), median

    def _predictions(self, queries: Queries) -> Iterator[RttPrediction]:
        asked = rtt_queries(queries)
        if not self.with_time:
            asked = [without_time(query) for query in asked]
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            yield from self.model.predict_rtt_batch(chunk)
            self.answered(len(chunk))


def rtt_queries(queries: Queries) -> list[RttQuery]:
    """Each query in the form that a trained model takes."""
    addresses = Addresses(queries)
    return [
        RttQuery(
            addresses[queries.src[at]],
            addresses[queries.dst[at]],
            int(queries.seconds[at]),
            context_of(queries, at, addresses),
            allow_private=True,  # whatever the store holds
        )
        for at in range(len(queries))
    ]


def without_time(query: RttQuery) -> RttQuery:
    """The query without any timestamps."""
    context = [replace(measurement, time=None) for measurement in query.context]
    return replace(query, time=None, context=context)


def context_of(queries: Queries, at: int, addresses: Addresses) -> list[Measurement]:
    """The context of query `at` as measurements, oldest first."""
    src = addresses[queries.src[at]]
    return [
        Measurement(src, addresses[dst], None if np.isnan(rtt_ms) else float(rtt_ms), int(seconds))
        for dst, seconds, rtt_ms in zip(
            queries.context_dst[at],
            queries.context_seconds[at],
            queries.context_rtt_ms[at],
            strict=True,
        )
        if dst >= 0
    ]


class Addresses(dict[int, Address]):
    """Addresses of `queries` by number, created when first needed."""

    def __init__(self, queries: Queries) -> None:
        self.words = queries.addresses

    def __missing__(self, number: int) -> Address:
        high, low = (int(word) for word in self.words[number])
        is_ipv4 = high == 0 and low < 2**32
        self[number] = IPv4Address(low) if is_ipv4 else IPv6Address(high << 64 | low)
        return self[number]
