"""A limit on memory for each test, and no way out of this machine: a plugin of `make attack`.

What a test holds is the memory of this process, less what it had before, and of all that it started.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import psutil
import pytest

MEMORY = 3 << 30  # bytes; JAX alone takes one
INTERVAL = 0.1  # seconds


def held(process: psutil.Process) -> int:
    """Resident bytes of a process and all that it started."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.Error:  # it has ended meanwhile
            continue
    return total


class Watch:
    """Kills what a test has started as soon as it holds too much."""

    def __init__(self, limit: int):
        self.most = 0
        self._limit = limit
        self._ours = psutil.Process()
        self._before = self._ours.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """Whether it held too much."""
        over = self.most > self._limit
        self._over.set()
        self._thread.join()
        return over

    def _run(self) -> None:
        while not self._over.wait(INTERVAL):
            self.most = max(self.most, held(self._ours) - self._before)
            if self.most > self._limit:
                for child in self._ours.children(recursive=True):
                    child.kill()
                if self._ours.memory_info().rss - self._before > self._limit:
                    print(f"this process holds more than {self._limit >> 20} MiB", flush=True)
                    os._exit(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    watch = Watch(MEMORY)
    try:
        yield
    finally:
        over = watch.stop()
    if over:
        pytest.fail(f"held {watch.most >> 20} MiB of memory, more than {MEMORY >> 20}")


connect = socket.socket.connect


def connect_here(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = str(address[0])
        if host != "localhost" and not ip_address(host).is_loopback:
            raise PermissionError(f"an attack on {host}: expected a loopback address")
    connect(self, address)


def pytest_configure() -> None:
    socket.socket.connect = connect_here  # type: ignore[method-assign]
