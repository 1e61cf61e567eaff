"""`ingest` of real RIPE Atlas results, from the folder that PINGLM_REAL_DATA names, and with `--large MB` of one
large bzip2 file.

The large file holds invented results, one a line, as in an hourly dump. It is ingested with one worker and with one
per core, in turns, and the speeds compared: `per_core` is how much of one core's speed each of all cores has, the
median of the turns, whose values stand in `per_core_by_turn`. Both include the start of the process, so that a file
should take one core half a minute or more.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measure import measure
from pipeline.units import available_cores

FOLDER = "menog-internet-study"
TURNS = 3
TARGET = 0.8


def run(source: Path) -> dict[str, Any]:
    """Seconds and bytes of one ingest, including process start: the best of `TURNS`."""
    best: dict[str, Any] = {"wall_s": float("inf")}
    for _ in range(TURNS):
        best = min(best, _ingest(source), key=lambda n: n["wall_s"])
    return best


def run_large(megabytes: float, cores: int, turns: int = TURNS) -> dict[str, Any]:
    """One file on one core and on `cores`; speeds in MB of text a second, the median of the turns."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "pings.bz2")
        size = _write_results(path, round(megabytes * 1e6))
        runs: dict[int, list[dict[str, Any]]] = {1: [], cores: []}
        for _ in range(turns):
            for workers, found in runs.items():
                found.append(_ingest(path, "--workers", workers))
        walls = {workers: [n["wall_s"] for n in found] for workers, found in runs.items()}
        seconds = {workers: statistics.median(times) for workers, times in walls.items()}
        ratios = [one / both / cores for one, both in zip(walls[1], walls[cores], strict=True)]
        return {
            "cores": cores,
            "file_bytes": path.stat().st_size,
            "text_bytes": size,
            "one_core_mb_per_s": round(size / seconds[1] / 1e6, 1),
            "all_cores_mb_per_s": round(size / seconds[cores] / 1e6, 1),
            "per_core": round(statistics.median(ratios), 3),
            "per_core_by_turn": [round(ratio, 2) for ratio in ratios],
            "peak_bytes": max(n["peak_bytes"] for n in runs[cores]),
        }


def _ingest(source: Path, *options: object) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        numbers = measure(["cli.py", "ingest", "--input", source, "--out", out, "--json", *options])
        rows = json.loads((out / ".pinglm/ingest.json").read_bytes())["totals"]["rows"]
        return {**numbers, "rows": rows}


def _write_results(path: Path, size: int) -> int:
    """Write at least `size` bytes of results, compressed; return how many."""
    rng = random.Random(0)
    written = number = 0
    with bz2.open(path, "wb") as file:
        while written < size:
            rtts = [20 + rng.random() for _ in range(3)]
            source, target = (f"193.{rng.randrange(256)}.{rng.randrange(64)}.9" for _ in range(2))
            result = {
                "fw": 5080, "mver": "2.6.2", "lts": rng.randrange(200), "dst_name": target, "af": 4,
                "dst_addr": target, "src_addr": "192.168.1.20", "proto": "ICMP", "ttl": 52,
                "size": 48, "result": [{"rtt": rtt} for rtt in rtts], "dup": 0, "rcvd": 3, "sent": 3,
                "min": min(rtts), "max": max(rtts), "avg": sum(rtts) / 3, "msm_id": 1001 + number % 9000,
                "prb_id": 1 + number % 13_001, "timestamp": 1_700_000_000 + number // 3000,
                "msm_name": "Ping", "from": source, "type": "ping", "step": 240,
            }  # fmt: skip
            written += file.write(json.dumps(result, separators=(",", ":")).encode() + b"\n")
            number += 1
    return written


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ingest", description=__doc__)
    parser.add_argument("--input", type=Path, help=f"default: {FOLDER} in PINGLM_REAL_DATA")
    parser.add_argument("--large", type=float, metavar="MB", help="of text in one large file")
    parser.add_argument("--cores", type=int, help="for the large file; default: all")
    parser.add_argument("--turns", type=int, default=TURNS, help="of the large file")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    source = options.input
    if source is None and "PINGLM_REAL_DATA" in os.environ:
        source = Path(os.environ["PINGLM_REAL_DATA"], FOLDER)
    if source is None:
        print("not run: PINGLM_REAL_DATA is not set and no --input given", file=sys.stderr)
    result = run(source) if source is not None else {}
    if options.large:
        result["large"] = run_large(
            options.large, options.cores or available_cores(), options.turns
        )
    if not result:
        return
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    if source is not None:
        Console().print(
            f"{result['rows']:,} results in {result['wall_s']:.1f} s "
            f"({result['cpu_s']:.1f} s CPU), peak {result['peak_bytes'] / 2**20:,.0f} MiB"
        )
    if options.large:
        large = result["large"]
        Console().print(
            f"one bzip2 file: {large['one_core_mb_per_s']} MB/s of text on one core, "
            f"{large['all_cores_mb_per_s']} on {large['cores']}: {large['per_core']:.2f} of one core's "
            f"speed each (turns: {large['per_core_by_turn']}, target {TARGET}), "
            f"peak {large['peak_bytes'] / 2**20:,.0f} MiB"
        )
