"""A local server that behaves like the RIPE Atlas API's results: streamed, with keys, and faults on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.stores.remote_servers import serving

KEY = "0ddba11-neverprinted"


class Api:
    """Serves `results` (by `msm_id`). `faults` holds what to do to the next requests: a status, "drop" (half of
    the body), "cut" (all but the end of the last line, as if it were all), "html", "endless" (one line without an
    end), or "" (nothing)."""

    def __init__(self, results: Sequence[dict[str, Any]]) -> None:
        self.results = results
        self.private: set[int] = set()  # measurements that need the key
        self.faults: list[str] = []
        self.retry_after = "0"
        self.last_line_ends = True
        self.ends_count = (
            True  # whether both `start` and `stop` are among the seconds that are meant
        )
        self.stated = True  # whether the end of a body can be told from a broken connection
        self.moved_to = ""  # another server, to which requests are redirected
        self.asked: list[tuple[str, str | None]] = []  # (path with query, Authorization)
        self.on_request: Callable[[int], None] = lambda count: None
        self.hold = (
            threading.Event()
        )  # once it is set, bodies stop in their midst until the client goes
        self._lock = threading.Lock()

    def asked_ranges(self) -> list[tuple[int, int, int]]:
        """(measurement, start, stop) of every request."""
        found = []
        for path, _ in self.asked:
            query = parse_qs(urlsplit(path).query)
            found.append((int(path.split("/")[4]), int(query["start"][0]), int(query["stop"][0])))
        return found

    def _body(self, number: int, query: dict[str, list[str]]) -> bytes:
        start, stop = int(query["start"][0]), int(query["stop"][0])
        probes: set[int] = set()
        for each in query.get("probe_ids", [""])[0].split(",") if "probe_ids" in query else ():
            first, _, last = each.partition("-")
            probes |= set(range(int(first), int(last or first) + 1))
        edge = 0 if self.ends_count else 1
        lines = [
            json.dumps(result)
            for result in self.results
            if result["msm_id"] == number
            and start + edge <= result["timestamp"] <= stop - edge
            and (not probes or result["prb_id"] in probes)
        ]
        text = "\n".join(lines)
        return (text + "\n" * (bool(text) and self.last_line_ends)).encode()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serves for the block; yields the URL."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                authorization = self.headers.get("Authorization")
                with api._lock:
                    api.asked.append((self.path, authorization))
                    fault = api.faults.pop(0) if api.faults else ""
                    api.on_request(len(api.asked))
                if api.moved_to:
                    return self._refuse(302, {"Location": api.moved_to + self.path})
                if fault.isdigit():
                    return self._refuse(int(fault), {"Retry-After": api.retry_after})
                if fault == "html":
                    return self._stream(b"<!doctype html>\n<title>Sign in</title>\n", fault)
                if fault == "endless":
                    return self._stream(b"{" + b" " * (20 << 20), fault)
                parts = urlsplit(self.path)
                number = int(parts.path.split("/")[4])
                assert parts.path == f"/api/v2/measurements/{number}/results/"
                query = parse_qs(parts.query, strict_parsing=True)
                assert query["format"] == ["txt"]
                if not any(result["msm_id"] == number for result in api.results):
                    return self._refuse(404, {})
                if number in api.private and authorization != f"Key {KEY}":
                    return self._refuse(403, {})
                body = api._body(number, query)
                self._stream(body[:-9] if fault == "cut" else body, fault)

            def _refuse(self, status: int, headers: dict[str, str]) -> None:
                body = json.dumps(
                    {"error": {"status": status, "detail": str(self.headers)}}
                ).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, body: bytes, fault: str) -> None:
                self.close_connection = True
                self.send_response(200)
                if api.stated:
                    self.send_header("Transfer-Encoding", "chunked")
                self.send_header("Connection", "close")
                self.end_headers()
                sent = body[: len(body) // 2] if fault == "drop" else body
                for at in range(0, len(sent), 10_000):
                    part = sent[at : at + 10_000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if api.stated else part)
                    if api.hold.is_set():
                        self.wfile.flush()
                        self.rfile.read(1)  # nothing comes but the end
                        return
                if fault != "drop" and api.stated:
                    self.wfile.write(b"0\r\n\r\n")

        with serving(Handler) as url:
            yield url
