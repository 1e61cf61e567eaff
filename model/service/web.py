"""What every HTTP exchange goes through: body limit, time to send it, headers, errors in one shape."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES = 1 << 20
BODY_SECONDS = 20.0
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
FIELD = re.compile(r"(\w+)(?:\[(\d+)\]\.(\w+))?")  # as a QueryError begins: time, context[3].rtt_ms


class Guard:
    """ASGI middleware: reads the whole body, at most 1 MiB and 20 s long, and sets the headers."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_body(receive)
        except TimeoutError:
            too_slow = f"the body took longer than {BODY_SECONDS:.0f} s"
            return await problem(408, too_slow)(scope, receive, send_with_headers)
        if body is None:
            too_large = f"the body is larger than {BODY_BYTES:,} bytes: ask in smaller batches"
            return await problem(413, too_large)(scope, receive, send_with_headers)
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()  # what comes now is that the client has left
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send_with_headers)


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or `None` when it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


def problem(
    status: int, message: str, loc: tuple[str | int, ...] = (), kind: str = "error"
) -> JSONResponse:
    """An error in the shape all errors have."""
    headers = {"Retry-After": "1"} if status == 503 else None
    detail = [{"loc": list(loc), "msg": message, "type": kind}]
    return JSONResponse({"detail": detail}, status, headers)


def query_problem(message: str, at: tuple[str | int, ...]) -> JSONResponse:
    """422 for a `QueryError`, whose message begins with the field that is wrong."""
    field = FIELD.match(message)
    inside = (
        [int(part) if part.isdigit() else part for part in field.groups() if part] if field else []
    )
    return problem(422, message, ("body", *at, *inside), "value_error")


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """404, 405, and bodies that no parser reads."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))


async def on_invalid(_: Request, error: Exception) -> JSONResponse:
    """422 with every field that is wrong; never with the input, which may be large or NaN."""
    assert isinstance(error, RequestValidationError)
    detail = [
        {"loc": list(item["loc"]), "msg": _message(item), "type": item["type"]}
        for item in error.errors()
    ]
    return JSONResponse({"detail": detail}, 422)


def _message(item: dict[str, Any]) -> str:
    if item["type"] == "json_invalid":
        return f"malformed JSON: {item.get('ctx', {}).get('error', item['msg'])}"
    return str(item["msg"])


def as_json(value: Any) -> bytes:
    """Compact JSON; NaN would be an error of ours."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
