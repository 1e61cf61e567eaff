"""Files of measurements that the page cannot read by itself: RIPE Atlas results, Parquet, compressed text."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request, Response

from model.inference.context_file import Earlier, take_rows
from model.service import schemas, web
from stores.errors import InputError
from stores.measurements.reader import Rows, rows_of_bytes

MAX_TEXT = 16 << 20
"""Bytes of a file's text: 1 MiB compressed may be a thousand times as much."""
MAX_ROWS = 50_000
FILE = "file"  # what errors call it


def context_route() -> APIRouter:
    """The route that reads a file into measurements, one file at a time."""
    router = APIRouter(tags=["queries"])
    turn = asyncio.Semaphore(1)

    @router.post(
        "/context",
        summary="The measurements of a file, for the context of a query",
        response_model=schemas.FileAnswer,
        responses={
            408: {"model": schemas.Errors, "description": "The body arrived too slowly"},
            413: {"model": schemas.Errors, "description": "The body is too large"},
            422: {"model": schemas.Errors, "description": "No file of measurements"},
            501: {
                "model": schemas.Errors,
                "description": "Not installed: the reader of such files",
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    async def read(request: Request) -> Response:
        """The body is a file as `--context` takes it. Answers the last 1,000 measurements, oldest first."""
        data = await request.body()
        try:
            async with turn:
                earlier = await asyncio.to_thread(read_file, data)
        except InputError as error:
            return web.problem(422, str(error), ("body",), "value_error")
        except ModuleNotFoundError as error:
            needed = f"{error.name} is not installed where the service runs: send JSON lines or CSV"
            return web.problem(501, needed, ("body",))
        return Response(web.as_json(file_answer(earlier)), media_type="application/json")

    return router


def read_file(data: bytes) -> Earlier:
    """The measurements of a file in memory. Raises `InputError`, also for one that is too large."""
    found = rows_of_bytes(data, FILE, MAX_TEXT)
    rows = list(islice(found.rows, MAX_ROWS + 1))
    if len(rows) > MAX_ROWS:
        raise InputError(f"{FILE}: more than {MAX_ROWS:,} rows: send a part of it")
    return take_rows(Rows(found.kind, iter(rows)), FILE)


def file_answer(earlier: Earlier) -> dict[str, Any]:
    """JSON-able `FileAnswer`."""
    latest = earlier.measurements[-schemas.MAX_CONTEXT :]
    return {
        "measurements": [
            {"src": str(m.src), "dst": str(m.dst), "rtt_ms": m.rtt_ms, "time": m.time}
            for m in latest
        ],
        "count": len(earlier.measurements),
        "note": earlier.note(),
    }
