"""Measurement tables for tests."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.measurements import SCHEMA

START = 1_750_000_000


def measurement_table(rows: int, seed: int = 0, sources: int = 12, targets: int = 9) -> pa.Table:
    """Valid random rows of both families, in no order; times repeat, rows do not."""
    rng = np.random.default_rng(seed)
    v4 = rng.random(rows) < 0.6
    src, dst = rng.integers(1, sources + 1, rows), rng.integers(1, targets + 1, rows)
    seconds = START + rng.integers(0, max(2, rows // 2), rows)
    columns = {
        "msm_id": np.arange(rows) + 1000,
        "event_time": pa.array(seconds * 1_000_000 + rng.integers(0, 1_000_000, rows)).cast(
            SCHEMA.field("event_time").type
        ),
        "src_addr": [f"8.8.{s}.4" if f else f"2a00:{s:x}::1" for s, f in zip(src, v4, strict=True)],
        "dst_addr": [f"9.9.{d}.9" if f else f"2600:{d:x}::9" for d, f in zip(dst, v4, strict=True)],
        "ip_version": np.where(v4, 4, 6),
        "rtt": np.where(rng.random(rows) < 0.05, -1.0, rng.lognormal(4, 1, rows)),
        "size": np.full(rows, 64),
        "packet_error_count": rng.integers(0, 4, rows),
    }
    return pa.table(columns, schema=SCHEMA)


def write_parquet(table: pa.Table, path: Path, **options: Any) -> Path:
    """Write a table, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def with_column(
    table: pa.Table, name: str, values: Any, type_: pa.DataType | None = None
) -> pa.Table:
    """`table` with one column replaced."""
    column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, type_)
    return table.set_column(table.schema.get_field_index(name), name, column)


def as_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows as sorted tuples of the canonical columns, addresses canonical: equal for equal contents."""
    columns = [table.column(name).to_pylist() for name in SCHEMA.names]
    for at in (2, 3):
        columns[at] = [str(ip_address(text)) for text in columns[at]]
    return sorted(zip(*columns, strict=True))


def read_split(folder: Path, split: str) -> list[pa.Table]:
    """The shards of a split, in order."""
    return [pq.read_table(path) for path in sorted((folder / "splits" / split).glob("*.parquet"))]
