"""What `/metrics` counts, as Prometheus reads it."""

from __future__ import annotations

import socket
import time
from collections import Counter

import httpx
from prometheus_client.parser import text_string_to_metric_families

from model.service.metrics import route_of
from tests.model.service.conftest import DST, SRC

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(url: str) -> Series:
    answer = httpx.get(f"{url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def increase(before: Series, after: Series) -> Counter[str]:
    """By the name, and the labels in the order of their names."""
    return Counter(
        {
            " ".join([name, *(value for _, value in labels)]): value - before.get((name, labels), 0)
            for (name, labels), value in after.items()
        }
    )


def test_requests_are_counted_by_route_and_status_with_their_time(url: str) -> None:
    before = series(url)
    query = {"src": SRC, "dst": DST}
    for _ in range(3):
        assert httpx.post(f"{url}/predict_rtt", json=query).status_code == 200
    assert httpx.post(f"{url}/predict_rtt", json={}).status_code == 422
    assert httpx.get(f"{url}/health", headers={"Host": "evil.example"}).status_code == 421
    grown = increase(before, series(url))
    assert grown["pinglm_requests_total /predict_rtt 200"] == 3
    assert grown["pinglm_requests_total /predict_rtt 422"] == 1
    assert grown["pinglm_requests_total /health 421"] == 1
    assert grown["pinglm_requests_total /metrics 200"] == 1
    assert grown["pinglm_request_seconds_count /predict_rtt"] == 4
    assert grown["pinglm_request_seconds_sum /predict_rtt"] > 0


def test_batches_and_the_queue_are_counted(url: str) -> None:
    before = series(url)
    queries = {"queries": [{"prefix": "198.51", "k": 1}] * 20}
    assert httpx.post(f"{url}/complete_ip/batch", json=queries).status_code == 200
    after = series(url)
    grown = increase(before, after)
    assert grown["pinglm_batch_queries_sum complete_ip"] == 20
    assert grown["pinglm_batch_queries_count complete_ip"] == 2
    assert after["pinglm_waiting_queries", ()] == 0
    assert after["process_resident_memory_bytes", ()] > 1e7


def test_connections_that_were_turned_away_are_counted(url: str) -> None:
    before = series(url)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"this is not HTTP\r\n\r\n")
        connection.recv(4096)
    grown = increase(before, series(url))
    assert grown["pinglm_connections_turned_away_total malformed"] == 1


def test_nothing_that_a_client_sends_becomes_a_label(url: str) -> None:
    before = series(url)
    with httpx.Client(base_url=url) as client:
        for at in range(50):
            client.request(f"M{at}", f"/path/{time.time_ns()}")
            client.get(f"/page/{time.time_ns()}")
    after = series(url)
    grown = increase(before, after)
    assert grown["pinglm_requests_total other 404"] == 50
    assert grown["pinglm_requests_total /page/ 404"] == 50
    assert len(after) < len(before) + 50


def test_every_route_has_a_name(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    assert all(route_of(path) == path for path in document["paths"])
