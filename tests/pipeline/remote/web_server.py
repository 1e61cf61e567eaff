"""A web server with ranges, conditions, and faults on demand."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.stores.remote_servers import serving

PAST = "Mon, 05 Jan 2026 10:00:00 GMT"


class Web:
    """Serves `files` by path, with whatever query. `faults` holds, by path, what to do to its next requests:
    "500", "429", "416", "drop" (half of the body), "more" or "less" (than the length says), "all" (in place
    of a range), "shifted" (another range than was asked for)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.faults: dict[str, list[str]] = {}
        self.ranges = True
        self.tags = True
        self.times = True
        self.length = "stated"  # or "chunked", "none"
        self.retry_after = "0"
        self.moved: dict[str, str] = {}  # by path, the URL to which requests are redirected
        self.asked: list[tuple[str, str | None]] = []  # (path with query, range)
        self.sent = 0  # bytes of bodies
        self.on_request: Callable[[int], None] = lambda count: None
        self._lock = threading.Lock()

    def _fault(self, path: str, wanted: str | None) -> str | None:
        with self._lock:
            self.asked.append((path, wanted))
            self.on_request(len(self.asked))
            faults = self.faults.get(path.partition("?")[0].lstrip("/"))
            return faults.pop(0) if faults else None

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serves for the block; yields the URL."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                fault = web._fault(self.path, self.headers.get("Range"))
                if target := web.moved.get(self.path.lstrip("/")):
                    return self._answer(302, b"", {"Location": target})
                body = web.files.get(unquote(self.path.partition("?")[0].lstrip("/")))
                if fault in ("500", "429"):
                    return self._answer(int(fault), b"sorry", {"Retry-After": web.retry_after})
                if body is None:
                    return self._answer(404, b"no such file", {})
                headers = {"Last-Modified": PAST} if web.times else {}
                if web.tags:
                    headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
                if fault == "416":
                    return self._answer(416, b"no", headers)
                status, size = 200, len(body)
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                condition = self.headers.get("If-Range")
                if web.ranges and wanted and condition in (None, *headers.values()):
                    start = int(wanted[1]) + (1 if fault == "shifted" else 0)
                    end = min(size, int(wanted[2]) + 1 if wanted[2] else size)
                    if start >= size:
                        return self._answer(
                            416, b"no", headers | {"Content-Range": f"bytes */{size}"}
                        )
                    if fault != "all":
                        status, body = 206, body[start:end]
                        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
                self._answer(status, body, headers, fault)

            def _answer(
                self, status: int, body: bytes, headers: dict[str, str], fault: str | None = None
            ) -> None:
                sent = body[: len(body) // 2] if fault == "drop" else body
                web.sent += len(sent)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                chunked = status == 200 and web.length == "chunked"
                if chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                elif status != 200 or web.length == "stated":
                    claimed = max(0, len(body) + {"more": 7, "less": -1}.get(fault or "", 0))
                    self.send_header("Content-Length", str(claimed))
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                if not chunked:
                    self.wfile.write(sent)
                    return
                for at in range(0, len(sent), 100_000):
                    part = sent[at : at + 100_000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                if fault != "drop":
                    self.wfile.write(b"0\r\n\r\n")

        with serving(Handler) as url:
            yield url
