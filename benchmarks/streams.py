"""Memory of `prepare` for tables of unusual streams: all rows of one source in one microsecond, and every
row of a source of its own, or a few rows of each.

A shard cannot end between rows of one source and time, so the first is one shard whatever its size; the second
fills the tables of sources. The peaks at several numbers of rows show what a row costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.measure import measure
from pipeline.measurements import SCHEMA

ROWS = [1_000_000, 2_000_000]
TABLES = {"one": "one source, one microsecond", "many": "many sources"}
LIMIT = 3 << 30
_AT_ONCE = 1 << 18
_START = 1_700_000_000_000_000  # microseconds since 1970


def write_table(path: Path, rows: int, one_source: bool, sources: int | None = None) -> None:
    """Write `rows` measurements, either of one source in one microsecond, or of `sources` in turn (by default
    each of another)."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for first in range(0, rows, _AT_ONCE):
            numbers = np.arange(first, min(rows, first + _AT_ONCE))
            own = numbers % (sources or rows) * 7919 % (1 << 30) + (8 << 24)  # in no order
            source = np.full(len(numbers), 8 << 24) if one_source else own
            time = np.full(len(numbers), _START) if one_source else _START + numbers * 1000
            columns = {
                "msm_id": numbers,
                "event_time": pa.array(time).cast(SCHEMA.field("event_time").type),
                "src_addr": _addresses(source),
                "dst_addr": _addresses(own if one_source else np.full(len(numbers), 9 << 24)),
                "ip_version": np.full(len(numbers), 4),
                "rtt": rng.random(len(numbers)) * 100,
                "size": np.full(len(numbers), 48),
                "packet_error_count": np.zeros(len(numbers), np.int64),
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))


def run(
    rows: list[int], workers: int, tables: Sequence[str] = tuple(TABLES), per_source: int = 1
) -> list[dict[str, Any]]:
    """Peak memory of `prepare` for each kind of table and number of rows."""
    found = []
    for table in tables:
        for count in rows:
            with tempfile.TemporaryDirectory() as scratch:
                source, out = Path(scratch, "in.parquet"), Path(scratch, "out")
                sources = 1 if table == "one" else -(-count // per_source)
                write_table(source, count, table == "one", sources)
                options = ["--out", out, "--workers", workers, "--json"]
                numbers = measure(["cli.py", "prepare", "--input", source, *options])
                seconds = json.loads((out / "report.json").read_bytes())["seconds"]
            found.append(
                {"table": TABLES[table], "rows": count, "sources": sources, "workers": workers}
                | {**numbers, "seconds": seconds}
            )
    return found


def _addresses(numbers: Any) -> list[str]:
    return [f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in numbers.tolist()]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks streams", description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="repeatable; 1 and 2 million")
    parser.add_argument("--table", choices=TABLES, action="append", help="repeatable; both")
    parser.add_argument("--rows-per-source", type=int, default=1, help="where there are many")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    found = run(
        options.rows or ROWS,
        options.workers,
        options.table or tuple(TABLES),
        options.rows_per_source,
    )
    if options.json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return
    table = Table(title="Unusual streams", title_justify="left", box=None)
    for head in ("", "rows", "sources", "wall s", "CPU s", "peak MiB", "of 3 GiB"):
        table.add_column(head, justify="right" if head else "left")
    for numbers in found:
        peak = numbers["peak_bytes"]
        table.add_row(
            numbers["table"],
            f"{numbers['rows']:,}",
            f"{numbers['sources']:,}",
            f"{numbers['wall_s']:.1f}",
            f"{numbers['cpu_s']:.1f}",
            f"{peak / 2**20:,.0f}",
            f"{peak / LIMIT:.0%}",
        )
    Console().print(table)
