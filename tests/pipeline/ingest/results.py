"""Results to ingest, and what a run made of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.folder import open_folder
from pipeline.ingest.stage import IngestOptions, ingest
from pipeline.inputs import InputFile
from pipeline.measurements import REJECTED_SCHEMA
from pipeline.records import IngestRecord
from pipeline.units import open_executor


def ping(number: int, **changes: Any) -> dict[str, Any]:
    """A result whose identity and RTT come from `number`."""
    return {
        "type": "ping", "msm_id": 1000 + number % 7, "prb_id": 1 + number % 11, "af": 4,
        "timestamp": 1_600_000_000 + number, "from": f"9.9.{number % 200}.9", "src_addr": "10.0.0.1",
        "dst_addr": "8.8.8.8", "size": 48, "sent": 3, "rcvd": 3, "result": [{"rtt": number / 8}],
    } | changes  # fmt: skip


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def run(
    inputs: list[InputFile], out: Path, options: IngestOptions | None = None, workers: int = 1
) -> IngestRecord:
    with open_folder(out) as folder, open_executor(workers) as executor:
        return ingest(inputs, folder, options or IngestOptions(), executor, lambda *_: None)


def table(out: Path) -> pa.Table:
    paths = sorted((out / "measurements").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths])


def rejects(out: Path) -> list[dict[str, Any]]:
    paths = sorted((out / "rejected").glob("ingest-*.parquet"))
    assert all(pq.read_schema(path).equals(REJECTED_SCHEMA) for path in paths)
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def outputs(out: Path) -> dict[str, str]:
    """Digest of every file that a run leaves for the user."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("lock", "ingest.json")
    }
