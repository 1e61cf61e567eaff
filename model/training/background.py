"""What a run finds out in a thread of its own while it trains."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Generic, Self, TypeVar

Found = TypeVar("Found")


class Left(Exception):
    """Nobody waits for the result any more."""


class Background(Generic[Found]):
    """Does `_find` in a thread. Use this as a context manager: leaving it ends the thread when that next calls
    `_go_on`."""

    def __init__(self, name: str) -> None:
        self._left = threading.Event()
        self._result: Future[Found] = Future()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def _find(self) -> Found:
        raise NotImplementedError

    def _go_on(self, done: int, total: int) -> None:
        """To be called often by `_find`; raises `Left` when there is no need to go on."""
        if self._left.is_set():
            raise Left

    def _work(self) -> None:
        try:
            self._result.set_result(self._find())
        except BaseException as error:  # for the thread that asks
            self._result.set_exception(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._thread.join()
