"""Connections bounded in number and time.

uvicorn itself closes a connection that stays idle after an answer (`timeout_keep_alive`). But it would wait
without end for the first byte of a request, for the rest of its headers, for the rest of a body that nobody
reads any more, or for a client that does not read its answer; and it keeps any number of such connections
(`limit_concurrency` counts them, but refuses only whole requests), until no descriptor is left for anyone.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from model.service.web import problem

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # that this process may have
CONNECTIONS = 1000 if DESCRIPTORS == resource.RLIM_INFINITY else min(1000, DESCRIPTORS // 2)
BACKLOG = max(CONNECTIONS // 2, 1)  # also how many asyncio accepts before it looks at the first
WAIT_SECONDS = 10.0  # for a whole request
SAFE_SECONDS = 1.0  # that a connection without a request need not make room for another
LOG_SECONDS = 10.0

log = logging.getLogger("pinglm.service")


class Connection(H11Protocol):
    """A connection of uvicorn's, closed if for 10 s no whole request comes, or the client reads nothing.

    No more than `CONNECTIONS` are kept. One more takes the place of the one that has had no request for
    longest; if all have one, it is refused. Both are logged.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since = 0.0  # of the loop's clock, while there is a timer
        self._unsent = 0  # bytes, when the timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= CONNECTIONS and not self._make_room():
            REFUSED.count(self.loop)
            self.transport = transport
            transport.write(refusal(503, "busy: too many connections: try again in a second"))
            transport.close()
            return
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer has begun. uvicorn's own is plain text, and an exception
        where what is wrong is the rest of a body that is answered already."""
        MALFORMED.count(self.loop)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(refusal(400, "this is not HTTP"))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        """Keep a timer exactly while it is the client that has to do something."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and not self.flow.write_paused:
            self._stop()
        elif self._timer is None:
            self._waiting_since = self.loop.time()
            self._start()

    def _start(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(WAIT_SECONDS, self._expire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if 0 < self.transport.get_write_buffer_size() < self._unsent:
            return self._start()  # a slow client, but it reads
        begun = self.conn.trailing_data[0] or self.conn.their_state is not h11.IDLE
        if begun or self._unsent:  # browsers also open connections that they then do not need
            SLOW.count(self.loop)
        self.transport.abort()

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for its client; false if there is none."""
        latest = self.loop.time() - SAFE_SECONDS
        waiting = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other._timer and other._waiting_since < latest
        ]
        if not waiting:
            return False
        longest = min(waiting, key=lambda other: other._waiting_since)
        self.connections.discard(longest)  # it is lost only in the loop's next turn
        longest.transport.abort()
        REPLACED.count(self.loop)
        return True


class Tally:
    """What happens often and is logged seldom: at once, then the rest of each 10 s as a number. `total` is all."""

    def __init__(self, message: str):
        self._message = message
        self.total = 0
        self._since_logged: int | None = None  # None: nothing has happened for 10 s

    def count(self, loop: asyncio.AbstractEventLoop) -> None:
        """It has happened once more."""
        self.total += 1
        if self._since_logged is None:
            self._log(1, loop)
        else:
            self._since_logged += 1

    def _log(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        log.warning(self._message, number)
        self._since_logged = 0
        loop.call_later(LOG_SECONDS, self._sum_up, loop)

    def _sum_up(self, loop: asyncio.AbstractEventLoop) -> None:
        number, self._since_logged = self._since_logged, None
        if number:
            self._log(number, loop)


REFUSED = Tally("too many connections: refused %d")
MALFORMED = Tally("not HTTP: answered %d with 400")
REPLACED = Tally("too many connections: closed %d that had no request")
SLOW = Tally(f"no whole request within {WAIT_SECONDS:.0f} s, or answer not read: closed %d")

TALLIES = {"refused": REFUSED, "malformed": MALFORMED, "replaced": REPLACED, "slow": SLOW}
"""By the reason that the metrics give."""


def refusal(status: int, message: str) -> bytes:
    """A whole HTTP response in the shape of all errors, for a connection that is then closed."""
    answer = problem(status, message)
    answer.headers["Connection"] = "close"
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
    headers = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
    return line + headers + b"\r\n" + bytes(answer.body)
