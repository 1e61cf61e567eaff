"""The time that the steps of training take, without what is done between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds spent on steps since the last lap, and how many steps they were."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a lap."""
        self.steps, self._since = 0, time.perf_counter()

    def lap(self) -> float:
        """End the lap and start the next; returns the seconds that it took."""
        seconds = time.perf_counter() - self._since
        self.start()
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
