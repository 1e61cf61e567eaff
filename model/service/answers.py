"""The three kinds of query: from JSON to the model and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from model.inference.ping_model import PingModel
from model.inference.prediction import (
    Completion,
    RttPrediction,
    SampledAddress,
    is_convincing,
)
from model.inference.query import CompletionQuery, RttQuery, SampleQuery
from model.service import schemas

BINS = 60
SHORTEST_MS = 0.001  # where a geometric axis can begin


@dataclass(frozen=True)
class Kind:
    """A kind of query; `name` is its route and its name in the queue. The types are the JSON schemas."""

    name: str
    summary: str
    query: type[BaseModel]
    queries: type[BaseModel]
    answer: type[BaseModel]
    answers: type[BaseModel]
    parse: Callable[[Any], Any]
    """The model's query from an instance of `query`; raises `QueryError`."""
    ask: Callable[[PingModel, list[Any]], Sequence[Any]]
    render: Callable[[Any, Any, int], dict[str, Any]]
    """JSON-able answer from the query, the model's answer and the number of measurements used."""


def rtt_answer(query: RttQuery, prediction: RttPrediction, used: int) -> dict[str, Any]:
    """JSON-able `RttAnswer`."""
    asked = {"src": str(query.src), "dst": str(query.dst), "time": query.time}
    shown = {**prediction.as_dict(), "histogram": histogram(prediction)}
    return {**asked, "context_used": used, **shown}


def sample_answer(
    query: SampleQuery, samples: Sequence[SampledAddress], used: int
) -> dict[str, Any]:
    """JSON-able `SampleAnswer`."""
    return {
        "src": str(query.src),
        "target_rtt_ms": query.target_rtt_ms,
        "tolerance": query.tolerance,
        "context_used": used,
        "convincing": is_convincing(samples),
        "samples": [sample.as_dict() for sample in samples],
    }


def completion_answer(
    query: CompletionQuery, completions: Sequence[Completion], used: int
) -> dict[str, Any]:
    """JSON-able `CompletionAnswer`."""
    return {
        "prefix": query.prefix,
        "field": query.field,
        "context_used": used,
        "completions": [completion.as_dict() for completion in completions],
    }


def histogram(prediction: RttPrediction) -> dict[str, list[float]]:
    """60 bins of equal width on a logarithmic axis, from the 0.5 % to the 99.5 % quantile."""
    low, high = np.maximum(prediction.quantile([0.005, 0.995]), SHORTEST_MS)
    edges = np.geomspace(low, max(high, low * 1.01), BINS + 1)
    # The first bin takes in what lies exactly on its lower edge.
    below = prediction.cdf(np.append(edges[0] * (1 - 1e-9), edges[1:] * (1 + 1e-9)))
    return {"edges_ms": edges.tolist(), "probabilities": np.diff(below).tolist()}


KINDS = (
    Kind(
        "predict_rtt",
        "Distribution of the RTT between two addresses",
        schemas.RttQuery,
        schemas.RttQueries,
        schemas.RttAnswer,
        schemas.RttAnswers,
        lambda asked: RttQuery(
            asked.src, asked.dst, asked.time, asked.context, asked.allow_private
        ),
        lambda model, queries: model.predict_rtt_batch(queries),
        rtt_answer,
    ),
    Kind(
        "sample_ips",
        "Destinations at a given RTT from a source",
        schemas.SampleQuery,
        schemas.SampleQueries,
        schemas.SampleAnswer,
        schemas.SampleAnswers,
        lambda asked: SampleQuery(
            asked.src,
            asked.target_rtt_ms,
            asked.n,
            asked.context,
            asked.tolerance,
            asked.seed,
            asked.allow_private,
        ),
        lambda model, queries: model.sample_ips_batch(queries),
        sample_answer,
    ),
    Kind(
        "complete_ip",
        "The most probable addresses that begin with a prefix",
        schemas.CompletionQuery,
        schemas.CompletionQueries,
        schemas.CompletionAnswer,
        schemas.CompletionAnswers,
        lambda asked: CompletionQuery(
            asked.prefix, asked.k, asked.context, asked.field, asked.allow_private
        ),
        lambda model, queries: model.complete_ip_batch(queries),
        completion_answer,
    ),
)
