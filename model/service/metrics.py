"""What the service counts, in Prometheus' text format.

Labels have few values: the routes there are, HTTP statuses, kinds of query, and reasons. Nothing that a client
sends becomes one.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from model.service.answers import KINDS
from model.service.batcher import LARGEST_BATCH, Batcher
from model.service.connections import TALLIES

TYPE = CONTENT_TYPE_LATEST
QUERY_PATHS = tuple(f"/{kind.name}{rest}" for kind in KINDS for rest in ("", "/batch"))
PATHS = ("/", "/health", "/model", "/metrics", "/docs", "/openapi.json", "/context", *QUERY_PATHS)
FOLDERS = ("/page/", "/swagger/")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, LARGEST_BATCH)


class Metrics:
    """The counters of one application."""

    def __init__(self, batcher: Batcher):
        """Follows the queue and the calls of `batcher`."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "pinglm_requests",
            "Requests that were answered or refused.",
            ["route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "pinglm_request_seconds",
            "From the headers of a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._sizes = Histogram(
            "pinglm_batch_queries",
            "Queries that one call of the model answers.",
            ["kind"],
            buckets=SIZES,
            registry=self._registry,
        )
        waiting = Gauge("pinglm_waiting_queries", "Queries in the queue.", registry=self._registry)
        waiting.set_function(lambda: batcher.waiting)
        self._registry.register(_Connections())
        batcher.watch(lambda kind, size: self._sizes.labels(kind).observe(size))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request to `path` that got `status` after that time."""
        route = route_of(path)
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it (`TYPE`)."""
        return generate_latest(self._registry)


class _Connections(Collector):
    """Connections that ended without a whole request, by reason; the server counts them, not the application."""

    def collect(self) -> Iterator[Metric]:
        found = CounterMetricFamily(
            "pinglm_connections_turned_away",
            "Connections refused or closed by the service.",
            labels=["reason"],
        )
        for reason, tally in TALLIES.items():
            found.add_metric([reason], tally.total)
        yield found


def route_of(path: str) -> str:
    """The path if it is a route, the folder of a file, or "other"."""
    if path in PATHS:
        return path
    return next((folder for folder in FOLDERS if path.startswith(folder)), "other")
