"""Servers for tests of stores at a URL: files over HTTP with faults on demand, and a relay before a real S3
server that counts, spoils and repeats what passes."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, claimed: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A local server in a thread; its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client was killed
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Files:
    """A folder over HTTP. `faults` holds, by the end of a path, what to do to the next requests for it:
    "500", "drop" (half of the body), "more" or "less" (than the length says)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.on_request: Callable[[int], None] = lambda count: None
        self._lock = threading.Lock()

    def fault(self, path: str) -> str | None:
        with self._lock:
            self.asked.append(path)
            self.on_request(len(self.asked))
            for end, faults in self.faults.items():
                if path.endswith(end) and faults:
                    return faults.pop(0)
        return None

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serves for the block; yields the URL."""
        files = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                fault = files.fault(self.path)
                path = files.folder / self.path.lstrip("/")
                if fault == "500":
                    return self.answer(500, b"sorry")
                if not path.is_file():
                    return self.answer(404, b"no such file")
                body = path.read_bytes()
                if fault == "drop":
                    self.answer(200, body[: len(body) // 2], len(body))
                elif fault == "more":
                    self.answer(200, body, len(body) + 7)
                elif fault == "less":
                    self.answer(200, body, len(body) - 1)
                else:
                    return self.answer(200, body)
                self.close_connection = True

        with serving(Handler) as url:
            yield url


class Relay:
    """Passes requests on to an S3 server and counts those that write."""

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.writes = 0
        self.on_write: Callable[[int, str], bool] = lambda count, when: False
        """Called before and after a write is passed on, with "before" and "after"; what it says `True` to is
        not passed on, or not answered."""
        self.spoil: Callable[[str, bytes], bytes] = lambda path, body: body
        self.fault: Callable[[str], str | None] = lambda path: None
        """What to do to a request that reads: "503" or "drop" (half of the body)."""
        self.headers: dict[str, str] = {}
        """Set in every request."""
        self._lock = threading.Lock()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serves for the block; yields the URL."""
        relay = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                count = 0
                if self.command == "PUT":
                    with relay._lock:
                        relay.writes += 1
                        count = relay.writes
                    if relay.on_write(count, "before"):
                        self.close_connection = True
                        return
                    body = relay.spoil(self.path, body)
                fault = relay.fault(self.path) if self.command == "GET" else None
                if fault == "503":
                    return self.answer(503, b"<Error><Code>SlowDown</Code></Error>")
                connection = http.client.HTTPConnection(relay.target)
                sent = (*self.headers.items(), *relay.headers.items())
                headers = {name.lower(): value for name, value in sent}
                connection.request(self.command, self.path, body, headers)
                got = connection.getresponse()
                content = got.read()
                connection.close()
                if count and relay.on_write(count, "after"):
                    self.close_connection = True
                    return
                self.send_response(got.status)
                for name, value in got.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = got.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                self.close_connection = fault == "drop"
                self.wfile.write(content[: len(content) // 2] if fault == "drop" else content)

            do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

        with serving(Handler) as url:
            yield url


@contextmanager
def repeating(status: int) -> Iterator[str]:
    """A server that refuses everything and quotes all that it was sent; yields the URL."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(status, f"<Error>{self.requestline} {self.headers}</Error>".encode())

        do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

    with serving(Handler) as url:
        yield url
