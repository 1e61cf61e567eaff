"""Queries of many requests, answered together by the one thread that owns the device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

LARGEST_BATCH = 16  # queries of one call


class QueueFull(Exception):
    """The queue has no room for the queries of a request."""


class Batcher:
    """A bounded queue of queries, and the thread that answers up to 16 of them at a time.

    Requests take turns: each adds one query to a call until the call is full, so a request of 64
    queries delays no other by more than one call. A query whose future is cancelled before its turn
    never reaches the model.
    """

    def __init__(self, answer: Callable[[str, list[Any]], Sequence[Any]], limit: int):
        """`answer(kind, queries)` returns one answer per query; at most `limit` queries may wait."""
        self._answer = answer
        self._limit = limit
        self._waiting: deque[_Request] = deque()
        self._closed = False
        self._seen: Callable[[str, int], None] = lambda kind, size: None
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, kind: str, queries: Sequence[Any]) -> list[Future[Any]]:
        """Futures of the answers, in order. All queries are accepted, or none. Raises `QueueFull`."""
        with self._change:
            if self._closed or self._count() + len(queries) > self._limit:
                raise QueueFull
            request = _Request(kind, queries)
            self._waiting.append(request)
            self._change.notify()
        return request.futures

    @property
    def waiting(self) -> int:
        """Queries that wait for their turn."""
        with self._change:
            return self._count()

    @property
    def full(self) -> bool:
        """Whether there is no room for even one more query."""
        return self.waiting >= self._limit

    def watch(self, seen: Callable[[str, int], None]) -> None:
        """From now on, call `seen(kind, size)` before each call of the model, in the thread of the device."""
        self._seen = seen

    def close(self) -> None:
        """Accept nothing more, answer what is waiting, and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _count(self) -> int:
        return sum(not future.done() for request in self._waiting for _, future in request.left)

    def _run(self) -> None:
        while batch := self._take():
            kind, asked = batch
            self._ask(kind, [pair for pair in asked if pair[1].set_running_or_notify_cancel()])

    def _take(self) -> tuple[str, list[_Asked]] | None:
        """The queries of the next call, all of the kind that has waited longest; `None` at the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            kind = self._waiting[0].kind
            turn = deque(request for request in self._waiting if request.kind == kind)
            asked: list[_Asked] = []
            while turn and len(asked) < LARGEST_BATCH:
                request = turn.popleft()
                self._waiting.remove(request)
                query, future = request.left.popleft()
                if not future.cancelled():
                    asked.append((query, future))
                if request.left:
                    turn.append(request)
                    self._waiting.append(request)
            return kind, asked

    def _ask(self, kind: str, asked: list[_Asked]) -> None:
        """Answer all at once; if that fails, one by one, so that only the culprit fails."""
        if not asked:
            return
        self._seen(kind, len(asked))
        try:
            answers = self._answer(kind, [query for query, _ in asked])
        except Exception as error:  # whatever it is, the client's request handles it
            if len(asked) == 1:
                asked[0][1].set_exception(error)
            else:
                for pair in asked:
                    self._ask(kind, [pair])
            return
        for (_, future), answer in zip(asked, answers, strict=True):
            future.set_result(answer)


_Asked = tuple[Any, "Future[Any]"]


class _Request:
    """What is left of a request: queries with their futures."""

    def __init__(self, kind: str, queries: Sequence[Any]):
        self.kind = kind
        self.futures: list[Future[Any]] = [Future() for _ in queries]
        self.left: deque[_Asked] = deque(zip(queries, self.futures, strict=True))
