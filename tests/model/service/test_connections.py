"""Clients that send their headers slowly, nothing at all, or too much, against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from model.service.connections import WAIT_SECONDS, Tally
from tests.model.service.conftest import free_port, listening

DESCRIPTORS = 160
CONNECTIONS = DESCRIPTORS // 2
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
BODY = b"POST /predict_rtt HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

Server = tuple[subprocess.Popen[str], str]
Connect = Callable[..., socket.socket]


@pytest.fixture(scope="module")
def server(exported: Path, compile_cache: Path) -> Iterator[Server]:
    """The process and its address; it may open few descriptors. It is enough that it listens."""
    options = {"descriptors": DESCRIPTORS}
    with listening(exported, compile_cache, free_port(), **options) as (process, url):
        yield process, url


def logged(process: subprocess.Popen[str], expected: str) -> str:
    """What it has logged since the last call, with `expected` in it."""
    assert process.stderr
    file, text = process.stderr.fileno(), ""
    deadline = time.monotonic() + 30
    while (
        expected not in text
        and select.select([file], [], [], max(deadline - time.monotonic(), 0))[0]
    ):
        text += os.read(file, 65536).decode()
    assert expected in text
    assert "Traceback" not in text
    return text


@contextlib.contextmanager
def connecting(url: str) -> Iterator[Connect]:
    """Opens a connection and sends the start of something; all are closed in the end."""
    with contextlib.ExitStack() as clients:

        def connect_one(send: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
            client = clients.enter_context(socket.socket())
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.settimeout(60)
            client.connect(("127.0.0.1", urlsplit(url).port or 0))
            client.sendall(send)
            return client

        yield connect_one


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    with connecting(server[1]) as connect_one:
        yield connect_one


def answers(url: str) -> bool:
    return httpx.get(f"{url}/health", timeout=60).status_code in (200, 503)


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed it; what it has sent is read."""
    try:
        while select.select([client], [], [], 0)[0]:
            if not client.recv(65536):
                return True
    except ConnectionError:
        return True
    return False


def test_connections_without_a_whole_request_are_closed_in_time(
    server: Server, connect: Connect
) -> None:
    """Also those whose clients send a byte now and then, so that no read would ever time out."""
    process, url = server
    silent = [connect(), connect(REQUEST)]
    refused = BODY + b"Origin: http://evil.example\r\nContent-Length: 900000\r\n\r\n"
    dripping = [
        (connect(), b"G"),
        (connect(REQUEST), b"X: y\r\n"),
        (connect(REQUEST + b"\r\n" + REQUEST), b"X: y\r\n"),  # a request, and half of the next
        (connect(refused), b" "),  # answered before its end
    ]
    started = time.monotonic()
    left = [*silent, *(client for client, _ in dripping)]
    all_open = 0.0  # s, until when
    while left and time.monotonic() < started + 6 * WAIT_SECONDS:
        for client, data in dripping:
            with contextlib.suppress(OSError):  # it is closed: what this waits for
                client.sendall(data)
        time.sleep(0.2)
        left = [client for client in left if not is_closed(client)]
        if len(left) == len(silent) + len(dripping):
            all_open = time.monotonic() - started
        assert answers(url)
    assert not left
    assert all_open > WAIT_SECONDS / 2
    logged(process, "no whole request within 10 s")


def test_half_open_connections_lock_nobody_out(server: Server, connect: Connect) -> None:
    process, url = server
    for _ in range(2 * DESCRIPTORS):
        connect(REQUEST)
    time.sleep(2.0)  # all of them must have had a little time
    assert all(answers(url) for _ in range(20))
    assert len(os.listdir(f"/proc/{process.pid}/fd")) < DESCRIPTORS
    assert len(logged(process, "too many connections: closed").splitlines()) < 20


@pytest.fixture
def own_server(exported: Path, compile_cache: Path) -> Iterator[Server]:
    """Like `server`, but no earlier test has left it anything to count."""
    options = {"descriptors": DESCRIPTORS}
    with listening(exported, compile_cache, free_port(), **options) as (process, url):
        yield process, url


def test_where_all_have_a_request_one_more_is_refused(own_server: Server) -> None:
    with connecting(own_server[1]) as connect:
        refuse_one_more(own_server, connect)


def refuse_one_more(server: Server, connect: Connect) -> None:
    """The server waits for the bodies, at most 20 s."""
    process, url = server
    waiting = [connect(BODY + b"Content-Length: 10\r\n\r\n1234") for _ in range(CONNECTIONS)]
    time.sleep(2.0)
    head, body = connect().recv(65536).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1" in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert b"too many connections" in body
    for client in waiting[:20]:
        client.sendall(b"567890")
        assert client.recv(65536).startswith(b"HTTP/1.1 ")
        client.close()
    assert answers(url)
    logged(process, "too many connections: refused 1")


def test_what_is_not_http_is_an_error_of_the_usual_shape(server: Server, connect: Connect) -> None:
    for _ in range(50):
        head, body = connect(b"GET / HTTP/1.1\r\n\r\n").recv(65536).split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert json.loads(body)["detail"][0]["loc"] == []
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    answered = connect(BODY + b"Origin: http://evil.example\r\n" + chunked)
    assert answered.recv(65536).startswith(b"HTTP/1.1 403 ")
    answered.sendall(b"not a chunk\r\n")  # when there is nothing left to answer
    while not is_closed(answered):
        time.sleep(0.1)
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert connect(REQUEST + upgrade).recv(65536).startswith(b"HTTP/1.1 ")
    assert len(logged(server[0], "not HTTP").splitlines()) < 5


def test_a_client_that_reads_no_answers_is_closed(server: Server, connect: Connect) -> None:
    """Its many answers fill the buffers, and then the server would wait for room in them."""
    client = connect(receive_buffer=4096)
    client.settimeout(1.0)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000_000
    with pytest.raises(TimeoutError):  # the server reads no more requests
        client.sendall(asked)
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    assert not poll.poll(WAIT_SECONDS / 2 * 1000)
    assert poll.poll(6 * WAIT_SECONDS * 1000)
    logged(server[0], "answer not read")


class Clock:
    """What a tally asks of the loop."""

    def __init__(self) -> None:
        self.later: list[tuple[float, object, tuple[object, ...]]] = []

    def call_later(self, delay: float, call: object, *arguments: object) -> None:
        self.later.append((delay, call, arguments))

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for _, call, arguments in due:
            call(*arguments)  # type: ignore[operator]


def test_a_tally_logs_at_once_and_then_the_number_every_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally, clock = Tally("happened %d times"), Clock()
    for _ in range(1000):
        tally.count(clock)  # type: ignore[arg-type]
    assert caplog.messages == ["happened 1 times"]
    clock.pass_time()
    assert caplog.messages == ["happened 1 times", "happened 999 times"]
    clock.pass_time()
    clock.pass_time()
    assert len(caplog.messages) == 2
    tally.count(clock)  # type: ignore[arg-type]
    assert caplog.messages[2:] == ["happened 1 times"]
