"""The same five pings in every form that a file of measurements can have."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.measurements import SCHEMA
from tests.measurements.bigquery_table import bigquery_table

START = 1_751_000_000
SRC, SRC6 = "9.9.9.9", "2a00:1450:4001::8"
PINGS = [
    (SRC, "8.8.8.8", 12.5, START),
    (SRC, "8.8.4.4", None, START + 60),
    (SRC6, "2001:500:2::c", 0.25, START + 120),
    (SRC, "1.1.1.1", 7.0, START + 180),
    (SRC, "8.8.8.8", 12.75, START + 240),
]
"""Source, destination, RTT in ms, Unix seconds."""


def results() -> list[dict[str, Any]]:
    """As RIPE Atlas results, the latest first, and one that has no public source."""
    found = [
        {
            "type": "ping", "msm_id": 1001, "prb_id": 7, "af": 6 if ":" in src else 4, "timestamp": time,
            "from": src, "src_addr": "10.0.0.1", "dst_addr": dst, "size": 64, "sent": 1,
            "rcvd": int(rtt is not None), "result": [{"x": "*"} if rtt is None else {"rtt": rtt}],
        }
        for src, dst, rtt, time in PINGS
    ]  # fmt: skip
    return [{**found[0], "from": "10.1.1.1", "timestamp": START + 1}, *reversed(found)]


def _ndjson() -> bytes:
    return b"".join(json.dumps(result).encode() + b"\n" for result in results())


def _array() -> bytes:
    return json.dumps(results(), indent=2).encode()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _table() -> pa.Table:
    columns = [
        [1001] * 5,
        pa.array([time * 10**6 for *_, time in PINGS]).cast(SCHEMA.field("event_time").type),
        [src for src, *_ in PINGS],
        [dst for _, dst, *_ in PINGS],
        [6 if ":" in src else 4 for src, *_ in PINGS],
        [-1.0 if rtt is None else rtt for _, _, rtt, _ in PINGS],
        [64] * 5,
        [0] * 5,
    ]
    return pa.table(columns, schema=SCHEMA)


def _short_table() -> pa.Table:
    names = ("src", "dst", "rtt_ms", "time")
    return pa.table(
        dict(zip(names, map(list, zip(*PINGS, strict=True)), strict=True))
    ).append_column("failed", pa.array([rtt is None for _, _, rtt, _ in PINGS]))


def _csv() -> bytes:
    rows = [f"{s},{d},{'failed' if r is None else r},{t}" for s, d, r, t in PINGS]
    return "\n".join(["src,dst,rtt_ms,time", *rows]).encode()


def _table_csv() -> bytes:
    rows = [f"{t},{s},{d},{-1 if r is None else r}" for s, d, r, t in PINGS]
    return "\r\n".join(["event_time,src_addr,dst_addr,rtt", *rows]).encode()


def _json_lines() -> bytes:
    rows = [
        {"src": s, "dst": d, "rtt_ms": r, "failed": r is None, "time": t} for s, d, r, t in PINGS
    ]
    return "\n".join(map(json.dumps, rows)).encode()


FORMS: dict[str, Callable[[], bytes]] = {
    "results.json": _array,
    "results.ndjson": _ndjson,
    "results.json.gz": lambda: gzip.compress(_array()),
    "results.ndjson.bz2": lambda: bz2.compress(_ndjson()),
    "results.ndjson.zst": lambda: zstandard.compress(_ndjson()),
    "bigquery.parquet": lambda: _parquet(bigquery_table(results(), "element", packed=True)),
    "table.parquet": lambda: _parquet(_table()),
    "short.parquet": lambda: _parquet(_short_table()),
    "short.csv": _csv,
    "table.csv": _table_csv,
    "short.jsonl": _json_lines,
    "table.csv.gz": lambda: gzip.compress(_table_csv()),
}
"""Content by name."""


def write_form(folder: Path, name: str) -> Path:
    """Write one of `FORMS` to a file of its name."""
    path = folder / name
    path.write_bytes(FORMS[name]())
    return path
