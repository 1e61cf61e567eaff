"""`prepare` from a Parquet table, all stages and modes, on all cores; beside it, Polars that sorts and splits only.

The table is of the simulated Internet, written before the clock starts. "CPU-bound" is the CPU time
divided by the cores: what is left of the wall time when the disk is fast enough.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import measure
from pipeline.units import available_cores

ROWS = [10_000_000]

_POLARS = """
import sys, polars as pl
source, out = sys.argv[1:]
frame = pl.read_parquet(source).sort("src_addr", "event_time")
cut = frame["event_time"].quantile(0.9)
frame.filter(pl.col("event_time") < cut).write_parquet(out + "/train.parquet", compression_level=1)
frame.filter(pl.col("event_time") >= cut).write_parquet(out + "/test.parquet", compression_level=1)
"""
PEER_ROWS_MAX = 20_000_000  # it holds everything in memory


def run(rows: list[int], folder: Path | None = None) -> dict[str, Any]:
    """Seconds and bytes for each number of rows."""
    result: dict[str, Any] = {"cores": available_cores(), "prepare": {}, "polars_sort_split": {}}
    for count in rows:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, out, peer = (
                Path(scratch, "in.parquet"),
                Path(scratch, "out"),
                Path(scratch, "p"),
            )
            measure(["cli.py", "simulate", "--rows", count, "--out", source, "--json"])
            numbers = measure(["cli.py", "prepare", "--input", source, "--out", out, "--json"])
            numbers["seconds"] = json.loads((out / "report.json").read_bytes())["seconds"]
            result["prepare"][count] = _rates(numbers, count)
            shutil.rmtree(out)
            if count <= PEER_ROWS_MAX:
                peer.mkdir()
                numbers = measure(["-c", _POLARS, source, peer])
                result["polars_sort_split"][count] = _rates(numbers, count)
    return result


def _rates(numbers: dict[str, Any], rows: int) -> dict[str, Any]:
    cpu_bound = numbers["cpu_s"] / available_cores()
    return {
        **numbers,
        "cpu_bound_s": round(cpu_bound, 2),
        "rows_per_s": round(rows / numbers["wall_s"]),
        "rows_per_cpu_bound_s": round(rows / cpu_bound),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks prepare", description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="repeatable; 10,000,000")
    parser.add_argument("--folder", type=Path, help="where to put the scratch files")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    result = run(options.rows or ROWS, options.folder)
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    table = Table(title=f"Preparing, {result['cores']} cores", title_justify="left", box=None)
    for name in ("", "rows", "wall s", "rows/s", "CPU s", "CPU-bound s", "peak MiB", "stages"):
        table.add_column(name, justify="left" if name in ("", "stages") else "right")
    for what in ("prepare", "polars_sort_split"):
        for rows, numbers in result[what].items():
            table.add_row(
                what,
                f"{rows:,}",
                f"{numbers['wall_s']:.1f}",
                f"{numbers['rows_per_s']:,}",
                f"{numbers['cpu_s']:.1f}",
                f"{numbers['cpu_bound_s']:.1f}",
                f"{numbers['peak_bytes'] / 2**20:,.0f}",
                ", ".join(f"{k} {v:.1f}" for k, v in numbers.get("seconds", {}).items()),
            )
    Console(width=120).print(table)
