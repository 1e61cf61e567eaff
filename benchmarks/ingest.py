"""`ingest` of real RIPE Atlas results, from the folder that PINGLM_REAL_DATA names."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measure import measure

FOLDER = "menog-internet-study"
TURNS = 3


def run(source: Path) -> dict[str, Any]:
    """Seconds and bytes of one ingest, including process start: the best of `TURNS`."""
    best: dict[str, Any] = {"wall_s": float("inf")}
    for _ in range(TURNS):
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out"
            numbers = measure(["cli.py", "ingest", "--input", source, "--out", out, "--json"])
            rows = json.loads((out / ".pinglm/ingest.json").read_bytes())["totals"]["rows"]
            best = min(best, {**numbers, "rows": rows}, key=lambda n: n["wall_s"])
    return best


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ingest", description=__doc__)
    parser.add_argument("--input", type=Path, help=f"default: {FOLDER} in PINGLM_REAL_DATA")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    source = options.input
    if source is None and "PINGLM_REAL_DATA" in os.environ:
        source = Path(os.environ["PINGLM_REAL_DATA"], FOLDER)
    if source is None:
        print("not run: PINGLM_REAL_DATA is not set and no --input given", file=sys.stderr)
        return
    result = run(source)
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    Console().print(
        f"{result['rows']:,} results in {result['wall_s']:.1f} s "
        f"({result['cpu_s']:.1f} s CPU), peak {result['peak_bytes'] / 2**20:,.0f} MiB"
    )
