"""The application called as ASGI servers call it, with clients that leave and models that fail."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from model.service.app import make_app
from model.service.batcher import Batcher
from model.service.hosts import Hosts

QUERY = {"src": "193.0.2.1", "dst": "198.51.101.7"}
BODY = json.dumps({"queries": [QUERY] * 3}).encode()
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/predict_rtt/batch",
    "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
}
Receive = dict[str, Any]


@contextmanager
def app_of(answer: Callable[[str, list[Any]], Sequence[Any]], timeout: float = 30) -> Iterator[Any]:
    """The application around something that answers instead of a model."""
    batcher = Batcher(answer, 10)
    model: Any = SimpleNamespace(ready=True, status="ready", window=64, batcher=batcher)
    yield make_app(model, Hosts("127.0.0.1", "127.0.0.1"), timeout)
    batcher.close()


def call(app: Any, *messages: Receive) -> tuple[list[dict[str, Any]], list[str]]:
    """What the application sends, and what asyncio says was forgotten. After `messages`, nothing comes."""

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: complaints.append(context["message"])
        )
        incoming = list(messages)

        async def receive() -> Receive:
            if not incoming:
                await asyncio.Event().wait()
            return incoming.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(SCOPE, receive, send)
        await asyncio.sleep(0.1)
        gc.collect()

    sent: list[dict[str, Any]] = []
    complaints: list[str] = []
    asyncio.run(run())
    return sent, complaints


def test_nothing_is_left_of_a_client_that_leaves() -> None:
    """Once, asyncio logged an exception that was never retrieved for each of them."""
    go = threading.Event()

    def answer(kind: str, queries: list[Any]) -> list[Any]:
        assert go.wait(30)
        return queries

    with app_of(answer) as app:
        messages = {"type": "http.request", "body": BODY}, {"type": "http.disconnect"}
        _, complaints = call(app, *messages)
        go.set()
    assert complaints == []


def test_nothing_is_left_of_a_request_that_takes_too_long() -> None:
    go = threading.Event()

    def answer(kind: str, queries: list[Any]) -> list[Any]:
        assert go.wait(30)
        return queries

    with app_of(answer, timeout=0.1) as app:
        sent, complaints = call(app, {"type": "http.request", "body": BODY})
        go.set()
    assert sent[0]["status"] == 504
    assert complaints == []


def test_a_model_that_fails_is_one_error_with_an_id(caplog: pytest.LogCaptureFixture) -> None:
    def answer(kind: str, queries: list[Any]) -> list[Any]:
        raise ArithmeticError("the model is broken")

    with app_of(answer) as app:
        sent, complaints = call(app, {"type": "http.request", "body": BODY})
    assert sent[0]["status"] == 500
    assert b"see id" in sent[1]["body"]
    assert complaints == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.request", "body": b"{"}],
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.request"}],
        [{"type": "http.request", "more_body": True}, {"type": "http.request", "body": b"{"}],
    ],
)
def test_a_body_may_leave_out_what_asgi_lets_it(messages: list[Receive]) -> None:
    with app_of(lambda kind, queries: queries) as app:
        sent, _ = call(app, *messages)
    assert sent[0]["status"] == 422
    assert b"malformed JSON" in sent[1]["body"]
