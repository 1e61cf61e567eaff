"""A connection between two processes that train together, for lines of JSON (see `model.training.peers`)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any


class Lost(Exception):
    """A connection over which nothing more will come, and why."""


class Link:
    """A connection to another process."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def patience(self, seconds: float) -> None:
        """How long `receive` waits."""
        self._connection.settimeout(seconds)

    def send(self, **message: Any) -> None:
        """Send it; whoever receives from this connection will notice when it is broken."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, most: int = -1) -> dict[str, Any]:
        """The next message, of at most that many bytes. Raises `Lost`."""
        try:
            line = self._lines.readline(most)
            message = json.loads(line) if line.endswith(b"\n") else None
        except TimeoutError:
            raise Lost("does not answer") from None
        except (OSError, ValueError):
            message = None
        if not isinstance(message, dict):
            raise Lost("has died")
        return message

    def close(self) -> None:
        """Close it."""
        self._lines.close()
        self._connection.close()
