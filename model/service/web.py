"""What all HTTP exchanges share: limits on the body, headers, and one shape for all errors."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.inference.checks import cut, shown
from model.service.hosts import Hosts
from stores.errors import QueryError

BODY_BYTES = 1 << 20
BODY_SECONDS = 20.0
MAX_PROBLEMS = 20  # per response
MAX_NAME = 100  # characters
BUSY = "busy: too many queries are waiting: try again in a second"
POLICY = "default-src 'self'; frame-ancestors 'none'"
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)

log = logging.getLogger("pinglm.service")


class Guard:
    """ASGI middleware: refuses requests to other hosts and from pages of other origins, reads the whole body
    (at most 1 MiB, within 20 s), sets the headers, and turns exceptions into responses. While `busy`, queries
    are refused unparsed: under overload, parsing them would take time away from answering others."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Hosts,
        busy: Callable[[], bool],
        seen: Callable[[str, int, float], None],
    ):
        """`seen(path, status, seconds)` is told of every request that was answered."""
        self.app = app
        self.hosts = hosts
        self.busy = busy
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        since, status = time.perf_counter(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, send_and_note)
        finally:
            if status:
                self.seen(scope["path"], status, time.perf_counter() - since)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = list(message.get("headers", ()))
                message["headers"] = own + [h for h in HEADERS if h[0] not in dict(own)]
            await send(message)

        foreign = self._foreign(Headers(scope=scope))
        if foreign is not None:
            return await foreign(scope, receive, send_with_headers)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_body(receive)
        except TimeoutError:
            too_slow = f"the body took longer than {BODY_SECONDS:.0f} s"
            return await problem(408, too_slow, ("body",))(scope, receive, send_with_headers)
        if body is None:
            too_large = f"the body is larger than {BODY_BYTES:,} bytes: send smaller batches"
            return await problem(413, too_large, ("body",))(scope, receive, send_with_headers)
        if scope["method"] == "POST" and self.busy():
            return await problem(503, BUSY)(scope, receive, send_with_headers)
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()  # from now on, only that the client has disconnected
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.app(scope, receive_again, send_with_headers)
        except asyncio.CancelledError:  # shutting down, and the time for in-flight requests is up
            answer = problem(503, "the service is stopping")
        except Exception:
            number = secrets.token_hex(4)
            log.exception("%s %r failed, id %s", scope["method"], scope["path"], number)
            answer = problem(500, f"server error: see id {number} in the log of the service")
        else:
            return
        if not begun:
            await answer(scope, receive, send_with_headers)

    def _foreign(self, headers: Headers) -> Response | None:
        """The refusal of a request that a page of another site may have sent, else `None`."""
        host = headers.get("host", "")
        if not self.hosts.allows(host):
            expected = f"expected {self.hosts}: allow another name with --allowed-host"
            return problem(421, f"{shown(host)}: {expected}", ("header", "host"))
        for origin in headers.getlist("origin"):
            if not self.hosts.allows_origin(origin, host):
                expected = f"expected a page of {shown(host)}"
                return problem(403, f"{shown(origin)}: {expected}", ("header", "origin"))
        return None


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or `None` if it is too large; empty if the client disconnects before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        body += message.get("body", b"")  # both fields may be left out
        if len(body) > BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def problem(
    status: int,
    message: str,
    loc: Sequence[str | int] = (),
    kind: str = "error",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response in the shape that all errors have."""
    if status == 503:
        headers = {"Retry-After": "1"}
    return _problems(status, [{"loc": list(loc), "msg": message, "type": kind}], headers)


def _problems(
    status: int, detail: list[dict[str, Any]], headers: Mapping[str, str] | None = None
) -> Response:
    return Response(as_json({"detail": detail}), status, headers, "application/json")


def query_problem(error: QueryError, at: Sequence[str | int]) -> Response:
    """422 for a `QueryError` in the query at `at` of the body."""
    context = () if error.row is None else ("context", error.row)
    return problem(422, str(error), ("body", *at, *context, error.field), "value_error")


def json_only(request: Request) -> None:
    """Raises 415 unless the body is said to be JSON."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if not (kind == "application/json" or re.fullmatch(r"application/[\w.-]+\+json", kind)):
        found = f"Content-Type is {shown(given)}" if given else "Content-Type is missing"
        raise HTTPException(415, f"{found}: expected application/json")


async def on_http_error(request: Request, error: Exception) -> Response:
    """404, 405, 415, and bodies that cannot be parsed."""
    assert isinstance(error, HTTPException)
    where = cut(f"{request.method} {request.scope['path']}")
    loc = {400: ("body",), 415: ("header", "content-type")}.get(error.status_code, ())
    return problem(error.status_code, f"{where}: {error.detail}", loc, headers=error.headers)


async def on_invalid(_: Request, error: Exception) -> Response:
    """422 with the first wrong fields; never with the input, which may be large or NaN."""
    assert isinstance(error, RequestValidationError)
    detail = [
        {
            "loc": [_shorten(part) for part in item["loc"]],
            "msg": _message(item),
            "type": item["type"],
        }
        for item in error.errors()[:MAX_PROBLEMS]
    ]
    return _problems(422, detail)


def _shorten(part: str | int) -> str | int:
    """Cut off long names: those of unknown fields come from the client."""
    return part[:MAX_NAME] if isinstance(part, str) else part


def _message(item: dict[str, Any]) -> str:
    if item["type"] == "json_invalid":
        return f"malformed JSON: {item.get('ctx', {}).get('error', item['msg'])}"
    return str(item["msg"])


def as_json(value: Any) -> bytes:
    """Compact JSON. NaN raises `ValueError`: it would be a bug in the server."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
