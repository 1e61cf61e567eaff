"""The service under everything at once. Smaller attacks on it are among the tests of `tests/model/service`."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.model.service.conftest import DST, SRC, compile_cache, exported, free_port, serving, url

__all__ = ["compile_cache", "exported", "url"]  # fixtures
pytestmark = [pytest.mark.attack, pytest.mark.timeout(400)]
QUERY = {"src": SRC, "dst": DST}
CHECKED = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "unsupported_method,ignored_auth,missing_required_header"
)
"""All but that whatever fits the schema is answered: it cannot say which prefixes and which addresses are
public. `test_openapi.py` checks the rest against it."""


def test_schemathesis_finds_nothing_in_the_description(url: str, tmp_path: Path) -> None:
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["--checks", CHECKED, "--max-examples", "25", "--max-time", "120", "--seed", "1"]
    options += ["--no-color", "--generation-database", "none", "--request-timeout", "60"]
    done = subprocess.run(
        [sys.executable, "-c", program, "run", f"{url}/openapi.json", *options],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("/predict_rtt", QUERY),
    ("/predict_rtt/batch", {"queries": [QUERY] * 8}),
    ("/sample_ips", {"src": SRC, "target_rtt_ms": 20, "n": 3}),
    ("/complete_ip", {"prefix": "198.51", "k": 3}),
    ("/predict_rtt", {"src": "nowhere", "dst": DST}),
    ("/predict_rtt", {**QUERY, "context": [{**QUERY, "rtt_ms": 5.0}] * 1000}),
]
SECONDS, CLIENTS = 60, 64


def test_64_clients_for_a_minute_and_then_sigterm_leave_no_traceback(
    exported: Path, compile_cache: Path
) -> None:
    async def ask(client: httpx.AsyncClient, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < stop_at + 5:
            path, body = rng.choice(QUESTIONS)
            begun = time.monotonic()
            try:
                answer = await client.post(path, json=body, timeout=rng.choice([0.05, 40, 40]))
            except httpx.TimeoutException:  # a client that leaves
                continue
            except httpx.TransportError:
                assert begun > stop_at - 1 or time.monotonic() > stop_at, "cut off while it served"
                return
            seen[answer.status_code] += 1

    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, limits=limits) as client:
            clients = [asyncio.create_task(ask(client, seed)) for seed in range(CLIENTS)]
            await asyncio.sleep(stop_at - time.monotonic())
            process.send_signal(signal.SIGTERM)
            await asyncio.gather(*clients)

    with serving(exported, compile_cache, free_port()) as (process, address):
        seen: Counter[int] = Counter()
        stop_at = time.monotonic() + SECONDS
        asyncio.run(all_of_them())
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert set(seen) <= {200, 422, 503}
    assert seen[200] > CLIENTS
    assert "Traceback" not in log
    assert len(log.splitlines()) < 50, log


REQUESTS, SETTLED = 10_000, 2_000
GROWTH = 64 << 20  # bytes; what each request leaves behind would be 8 KiB


def test_memory_does_not_grow_with_10_000_requests(exported: Path, compile_cache: Path) -> None:
    with serving(exported, compile_cache, free_port()) as (process, address):
        memory = psutil.Process(process.pid).memory_info
        with httpx.Client(base_url=address, timeout=60) as client:
            for number, path in zip(range(REQUESTS), itertools.cycle(PLAIN), strict=False):
                if path == "/predict_rtt":
                    body = QUERY if number % 20 < 10 else {"src": f"no {number}", "dst": DST}
                    client.post(path, json=body)
                else:
                    client.get(f"{path}?{number}" if path == "/model" else path)
                if number == SETTLED:
                    before = memory().rss
        assert memory().rss - before < GROWTH
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 100


PLAIN = ("/predict_rtt", "/health", "/model", "/nothing", "/page/page.js", "/metrics", "/docs")


def test_under_a_foreign_name_or_from_a_foreign_page_nothing_is_served(url: str) -> None:
    hosts = ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "@127.0.0.1")
    origins = ("http://evil.example", "null", "file://", "http://localhost.evil.example", "http://")
    with httpx.Client(base_url=url) as client:
        for path in PLAIN:
            for host in hosts:
                assert client.get(path, headers={"Host": host}).status_code in (400, 421), host
        for origin in origins:
            asked = client.post("/predict_rtt", json=QUERY, headers={"Origin": origin})
            assert asked.status_code == 403, origin
            assert "access-control-allow-origin" not in asked.headers
