"""The FastAPI application: pages, health, model, metrics, and for each kind of query a route and its batch form."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the routes made below.
import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from model.inference.query import context_used
from model.service import schemas, web
from model.service.answers import KINDS, Kind
from model.service.batcher import QueueFull
from model.service.context import context_route
from model.service.hosts import Hosts
from model.service.metrics import TYPE, Metrics
from model.service.ready import ReadyModel
from model.service.web import POLICY
from stores.errors import QueryError

PAGE = Path(__file__).parent / "page"
SWAGGER = Path(fastapi_offline.__file__).parent / "static"
DOCS_POLICY = f"{POLICY}; img-src 'self' data:"
"""Swagger UI's style sheet holds its icons."""
DISCONNECT_POLL = 0.25  # seconds


def make_app(model: ReadyModel, hosts: Hosts, timeout: float) -> FastAPI:
    """The application around a model that may still be warming up. It answers requests to `hosts`; one may
    take `timeout` seconds."""
    app = FastAPI(
        title="pinglm",
        description="Predicts the RTT between two addresses, finds addresses at an RTT, and completes addresses.",
        version="1",
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(model.batcher)
    app.add_middleware(
        web.Guard, hosts=hosts, busy=lambda: model.batcher.full, seen=metrics.request
    )
    app.add_exception_handler(HTTPException, web.on_http_error)
    app.add_exception_handler(RequestValidationError, web.on_invalid)
    app.include_router(_about(model, timeout, metrics))
    app.include_router(context_route())
    for kind in KINDS:
        app.include_router(_queries(kind, model, timeout))
    app.mount("/page", StaticFiles(directory=PAGE))
    app.mount("/swagger", StaticFiles(directory=SWAGGER))
    return app


def _about(model: ReadyModel, timeout: float, metrics: Metrics) -> APIRouter:
    """Pages, health, model, metrics."""
    router = APIRouter(tags=["service"])

    @router.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @router.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers={"Content-Security-Policy": DOCS_POLICY})

    @router.get(
        "/health",
        summary="Whether it answers queries",
        responses={503: {"description": "Warming up, or failed"}},
    )
    async def health() -> JSONResponse:
        """200 once the service answers queries."""
        return JSONResponse({"status": model.status}, 200 if model.ready else 503)

    @router.get("/model", summary="The model and the limits")
    async def about() -> dict[str, Any]:
        """Name, shape, origin and card of the model, and the limits of this service."""
        return {**model.description, "limits": {**model.limits, "timeout_s": timeout}}

    @router.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def counted() -> Response:
        """Requests, times, batches and connections, in Prometheus' text format."""
        return Response(metrics.text(), headers={"Content-Type": TYPE})

    return router


def _queries(kind: Kind, model: ReadyModel, timeout: float) -> APIRouter:
    """The two routes of a kind of query."""
    statuses = {
        400: "Not JSON",
        403: "From a page of another site",
        408: "The body arrived too slowly",
        413: "The body is too large",
        415: "Not said to be JSON",
        421: "To a host name that is not allowed",
        422: "A field is wrong",
    }
    statuses |= {
        500: "Server error",
        503: "Busy, or warming up: try again",
        504: "Time limit exceeded",
    }
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": schemas.Errors, "description": text} for status, text in statuses.items()
    }
    router = APIRouter(tags=["queries"], responses=errors, dependencies=[Depends(web.json_only)])

    async def respond(request: Request, asked: Sequence[Any], batch: bool) -> Response:
        queries = []
        for at, item in enumerate(asked):
            try:
                queries.append(kind.parse(item))
            except QueryError as error:
                return web.query_problem(error, ("queries", at) if batch else ())
        if not model.ready:
            return web.problem(503, f"{model.status}: try again in a few seconds")
        try:
            futures = model.batcher.submit(kind.name, queries)
        except QueueFull:
            return web.problem(503, web.BUSY)
        try:
            found = await _wait(request, futures, timeout)
        except TimeoutError:
            return web.problem(
                504, f"no answer within {timeout:g} s: send fewer queries at once, or try later"
            )
        if found is None:
            return Response(status_code=499)  # the client has disconnected; nobody reads this
        # In a thread: a large batch takes a hundred milliseconds, and other requests must not wait for it.
        body = await asyncio.to_thread(render, queries, found, batch)
        return Response(body, media_type="application/json")

    def render(queries: Sequence[Any], found: Sequence[Any], batch: bool) -> bytes:
        answers = [
            {
                **kind.render(query, answer, context_used(query, model.window)),
                **model.grounds(query).as_dict(),
            }
            for query, answer in zip(queries, found, strict=True)
        ]
        return web.as_json({"answers": answers} if batch else answers[0])

    @router.post(f"/{kind.name}", summary=kind.summary, response_model=kind.answer)
    async def ask(request: Request, query: kind.query) -> Response:  # type: ignore[name-defined]
        return await respond(request, [query], batch=False)

    @router.post(
        f"/{kind.name}/batch", summary=f"{kind.summary}, as a batch", response_model=kind.answers
    )
    async def ask_several(request: Request, body: kind.queries) -> Response:  # type: ignore[name-defined]
        return await respond(request, body.queries, batch=True)

    return router


async def _wait(request: Request, futures: list[Future[Any]], timeout: float) -> list[Any] | None:
    """The answers, or `None` if the client has disconnected. Whatever is unanswered then is cancelled.

    Raises `TimeoutError`, or what the model raised.
    """
    everything = asyncio.gather(*map(asyncio.wrap_future, futures))
    everything.add_done_callback(_retrieve)
    try:
        async with asyncio.timeout(timeout):
            while True:
                done, _ = await asyncio.wait([everything], timeout=DISCONNECT_POLL)
                if done:
                    return everything.result()
                if await request.is_disconnected():
                    return None
    finally:
        if not everything.done():
            everything.cancel()
        for future in futures:
            future.cancel()


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Look at the exception of what nobody waits for any more, or asyncio logs it as forgotten."""
    if not done.cancelled():
        done.exception()
