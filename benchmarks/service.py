"""Load on `serve`: requests arrive by a schedule, whether or not earlier ones are answered (open loop).

Latency counts from the scheduled arrival, so waiting for a free client counts, too. First the most that 64
clients in a closed loop get answered, then half of that from 1, 4, 16 and 64 clients, then three times that
from 256: what is too much must be refused with 503, and one request afterwards must be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import httpx
from rich.console import Console
from rich.table import Table

SRC = "193.0.2.1"
CLIENTS = (1, 4, 16, 64)
OVERLOAD_CLIENTS = 256
START_SECONDS = 300


@dataclass
class Load:
    """What came of one load; latencies of answered requests, in ms."""

    name: str
    offered_per_s: float | None
    answered_per_s: float
    p50_ms: float
    p99_ms: float
    refused_share: float
    wrong: int


async def drive(
    url: str, name: str, clients: int, seconds: float, rate: float | None = None
) -> Load:
    """`clients` connections; `rate` requests/s arrive evenly, or each client asks on and on."""
    latencies: list[float] = []
    refused = wrong = sent = 0
    # One session each: a shared pool looks at all its connections for every request. Without `verify`,
    # certificates that no one asks for are not read, 20 ms each.
    sessions = [httpx.AsyncClient(base_url=url, timeout=60, verify=False) for _ in range(clients)]
    started = time.perf_counter()

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal refused, wrong, sent
        async with session:
            while True:
                number = sent
                sent += 1
                arrival = time.perf_counter() if rate is None else started + number / rate
                if arrival > started + seconds:
                    return
                await asyncio.sleep(max(arrival - time.perf_counter(), 0))
                asked = {"src": SRC, "dst": f"198.52.{number // 256 % 256}.{number % 256}"}
                response = await session.post("/predict_rtt", json=asked)
                if response.status_code == 503:
                    refused += 1
                    continue
                latencies.append(1e3 * (time.perf_counter() - arrival))
                wrong += response.status_code != 200 or response.json()["dst"] != asked["dst"]

    await asyncio.gather(*map(client, sessions))
    wall = time.perf_counter() - started
    quantiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return Load(
        name,
        rate,
        len(latencies) / wall,
        quantiles[49],
        quantiles[98],
        refused / max(refused + len(latencies), 1),
        wrong,
    )


async def measure(url: str, seconds: float) -> list[Load]:
    """All loads, in order."""
    loads = [await drive(url, "closed loop, 64 clients", 64, seconds)]
    capacity = loads[0].answered_per_s
    plan = [(f"half load, {clients} clients", clients, capacity / 2) for clients in CLIENTS]
    plan += [("three times too much", OVERLOAD_CLIENTS, 3 * capacity)]
    plan += [("afterwards, 1 client", 1, capacity / 10)]
    for name, clients, rate in plan:
        loads.append(await drive(url, name, clients, seconds, rate))
    return loads


def main(argv: list[str] | None = None) -> None:
    """Start a server of its own, load it, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks service", description=__doc__)
    parser.add_argument("--model", default="pretrained")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "cli.py", "serve", "--model", given.model, "--port", str(port)]
    server = subprocess.Popen([*command, "--queue", "64"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until_ready(server, url)
        loads = asyncio.run(measure(url, given.seconds))
    finally:
        server.terminate()
        server.wait()
    if given.json:
        print(json.dumps([asdict(load) for load in loads]))
        return
    table = Table(title=f"serve --model {given.model} --queue 64, on this machine with its clients")
    for head in ("load", "offered/s", "answered/s", "p50 ms", "p99 ms", "503", "wrong"):
        table.add_column(head, justify="left" if head == "load" else "right")
    for load in loads:
        offered = "" if load.offered_per_s is None else f"{load.offered_per_s:.0f}"
        numbers = f"{load.answered_per_s:.0f}", f"{load.p50_ms:.1f}", f"{load.p99_ms:.1f}"
        table.add_row(load.name, offered, *numbers, f"{load.refused_share:.0%}", str(load.wrong))
    Console().print(table)


def until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    sys.exit("error: the server did not become ready")
