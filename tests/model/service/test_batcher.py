from __future__ import annotations

import threading
from typing import Any

import pytest

from model.service.batcher import LARGEST_BATCH, Batcher, QueueFull


class Gate:
    """A slow model: each call waits to be let through, and is noted."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, kind: str, queries: list[Any]) -> list[Any]:
        self.calls.append((kind, queries))
        self.entered.release()
        assert self.go.acquire(timeout=10)
        if "bad" in queries:
            raise ValueError("bad query")
        return [f"{kind} {query}" for query in queries]

    def open(self) -> None:
        self.go.release(1000)


def test_waiting_queries_of_one_kind_share_a_call_and_each_gets_its_own_answer() -> None:
    gate = Gate()
    batcher = Batcher(gate, 100)
    first = batcher.submit("a", [0])
    assert gate.entered.acquire(timeout=10)
    others = [batcher.submit("ab"[at % 2], [at])[0] for at in range(10)]
    gate.open()
    assert first[0].result(10) == "a 0"
    assert [future.result(10) for future in others] == [f"{'ab'[at % 2]} {at}" for at in range(10)]
    assert [len(queries) for _, queries in gate.calls] == [1, 5, 5]


def test_a_large_request_makes_a_single_one_wait_for_no_more_than_a_call() -> None:
    gate = Gate()
    batcher = Batcher(gate, 100)
    batcher.submit("a", ["large"] * 64)
    assert gate.entered.acquire(timeout=10)
    single = batcher.submit("a", ["single"])[0]
    gate.open()
    assert single.result(10) == "a single"
    assert "single" in gate.calls[1][1]
    assert len(gate.calls[1][1]) == LARGEST_BATCH


def test_past_the_bound_all_queries_of_a_request_are_refused_and_room_comes_back() -> None:
    gate = Gate()
    batcher = Batcher(gate, 4)
    batcher.submit("a", [0])
    assert gate.entered.acquire(timeout=10)
    waiting = batcher.submit("a", [1, 2, 3])
    with pytest.raises(QueueFull):
        batcher.submit("a", [4, 5])
    assert not batcher.full
    batcher.submit("a", [6])
    assert batcher.full
    gate.open()
    assert [future.result(10) for future in waiting] == ["a 1", "a 2", "a 3"]
    assert batcher.submit("a", [7, 8, 9, 10])[3].result(10) == "a 10"


def test_a_query_that_fails_does_not_fail_those_beside_it() -> None:
    gate = Gate()
    batcher = Batcher(gate, 100)
    batcher.submit("a", [0])
    assert gate.entered.acquire(timeout=10)
    futures = batcher.submit("a", [1, "bad", 2])
    gate.open()
    assert (futures[0].result(10), futures[2].result(10)) == ("a 1", "a 2")
    with pytest.raises(ValueError, match="bad query"):
        futures[1].result(10)


def test_a_cancelled_query_is_never_asked() -> None:
    gate = Gate()
    batcher = Batcher(gate, 100)
    batcher.submit("a", [0])
    assert gate.entered.acquire(timeout=10)
    futures = batcher.submit("a", ["gone", 1])
    assert futures[0].cancel()
    gate.open()
    assert futures[1].result(10) == "a 1"
    assert all("gone" not in queries for _, queries in gate.calls)


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    gate = Gate()
    batcher = Batcher(gate, 100)
    futures = batcher.submit("a", [0, 1])
    gate.open()
    batcher.close()
    assert [future.result(0) for future in futures] == ["a 0", "a 1"]
    with pytest.raises(QueueFull):
        batcher.submit("a", [2])
