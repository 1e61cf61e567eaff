"""The temperature at which a model predicts RTTs, found on rows that it has not seen.

A model that has met each pair of its training data many times is surer of itself than it may be of other rows: of
its 80 % intervals, fewer than 80 % hold. One number mends most of that, after training and without moving the
medians much (Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599): the temperature that
makes the RTTs of the validation split likeliest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.evaluate.predictors.trained import rtt_queries, without_time
from model.evaluate.questions import choose_questions
from model.inference.ping_model import PingModel
from model.inference.weights import Weights
from stores.codec import encode_rtts
from stores.errors import ConfigError
from stores.progress import Progress
from stores.rows import read_rows
from stores.union import Store

ROWS = 1_000
"""Validation rows that are asked, each with timestamps and without: 20 s of `tiny` on one core."""
CHUNK = 64
TEMPERATURES = 1.02 ** np.arange(-70, 71)
"""Those that are tried, 0.25 to 4: outside of these, something else would be wrong."""
LEAST_PROBABILITY = 1e-12  # also so that no power of it is too small for a float

Floats = NDArray[np.float64]


def with_temperature(
    weights: Weights, store: Store, progress: Progress = lambda done, total: None
) -> Weights:
    """The weights with the temperature at which the RTTs of the store's validation split are likeliest.

    Asks `ROWS` rows with all of their context; calls `progress(done, total)`. Raises `ConfigError` for a store
    without a validation split, or without answered rows in it, and what reading the store raises.
    """
    if store.choosing_split != "validation":
        raise ConfigError(
            f"{store.name}: has no validation split to find a temperature on: prepare it with --validation 0.02"
        )
    train, held_out = read_rows(store, held_out="validation")
    answered = held_out.take(np.flatnonzero(~held_out.failed))
    if not len(answered):
        raise ConfigError(f"{store.name}: no ping of its validation split was answered")
    questions = choose_questions(train, answered, ROWS)
    queries = rtt_queries(questions.queries)
    asked = queries + [without_time(query) for query in queries]
    codes = np.tile(encode_rtts(questions.rtt_ms), 2)
    model = PingModel(weights)
    first, second = np.empty((len(asked), 256)), np.empty((len(asked), 256))
    for start in range(0, len(asked), CHUNK):
        chunk = slice(start, start + CHUNK)
        for row, prediction in enumerate(model.predict_rtt_batch(asked[chunk]), start):
            by_first = prediction.code_probabilities.reshape(256, 256)
            known = True if prediction.known_first is None else prediction.known_first
            first[row] = (
                by_first.sum(axis=1) * known
            )  # what is left out of quantiles does not count
            second[row] = by_first[codes[row] >> 8]
        progress(min(start + CHUNK, len(asked)), len(asked))
    temperature = likeliest_temperature([(first, codes >> 8), (second, codes & 255)])
    return replace(weights, rtt_temperature=temperature)


def likeliest_temperature(tables: list[tuple[Floats, NDArray[np.integer]]]) -> float:
    """The one of `TEMPERATURES` at which the given outcomes are likeliest: of each table of distributions (n, 256),
    not necessarily normalized, the column that came out in each row."""
    nats = np.zeros(len(TEMPERATURES))
    for table, came in tables:
        logs = np.log(np.maximum(table, LEAST_PROBABILITY))
        for at, temperature in enumerate(TEMPERATURES):
            scaled = logs / temperature
            of_outcome = scaled[np.arange(len(came)), came]
            nats[at] += (np.log(np.exp(scaled).sum(axis=1)) - of_outcome).sum()
    return round(float(TEMPERATURES[nats.argmin()]), 3)
