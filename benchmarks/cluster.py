"""`prepare` on a Dask cluster of this machine: what a unit costs, what of the work is the parent's, and its memory.

*Units*: units that do nothing, so that their cost is that of sending them and of keeping their markers. *Prepare*:
all stages on 1, 2 and 4 workers, at two numbers of rows, so that what grows with the rows can be told from the
start of the processes. The rows come in the order of time, as in RIPE Atlas dumps, so every run holds every source.
*Plan*: what parent and workers do for each pair of a run and a shard, of which there are as many as rows squared,
where shards end between sources and where they end inside one. *Overlap*: reading the distinct hashes of one shard,
once for each twenty million hashes of all shards.

Times are CPU times: the processes share the cores of one machine, so more workers make nothing faster here.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.local_dask import ROOT, LocalDask
from pipeline.dask_cluster import dask_executor
from pipeline.records import ShardFile
from pipeline.split.plan import Cut, find_cut_second, plan_shards
from pipeline.split.ranges import Range, write_index
from pipeline.split.runs import write_runs
from pipeline.split.summary import count_overlap
from pipeline.units import Unit, open_executor, run_units
from stores.files import write_arrays

ROWS = [1_000_000, 2_000_000]
WORKERS = [1, 2, 4]
UNITS = 500
PLAN = 100  # runs, and as many shards
PLAN_ROWS = 50_000  # of each run
PLAN_SOURCES = [10_000, 5]  # at most, in each run


def run(rows: list[int], workers: list[int], folder: Path | None = None) -> dict[str, Any]:
    """Everything above; times in seconds, memory in bytes."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tables = {count: _table(Path(scratch), count) for count in rows}
        return {
            "units": _units(Path(scratch)),
            "prepare": [
                {"workers": number, "rows": count, **_prepare(Path(scratch), table, number)}
                for number in workers
                for count, table in tables.items()
            ],
            "plan": [_plan(Path(scratch), sources) for sources in PLAN_SOURCES],
            "overlap_file_s": _overlap(Path(scratch)),
        }


def nothing(number: int) -> dict[str, Any]:
    """A unit that does no work."""
    return {"number": number}


def _units(scratch: Path) -> dict[str, Any]:
    """Cost of a unit on one worker, beside that of a unit in a thread of the parent."""
    units = [Unit(f"unit-{i}", nothing, (i,)) for i in range(UNITS)]

    def timed(name: str, executor: Any) -> tuple[float, float]:
        run_units(name, units[:1], scratch / f"{name}-first", executor, lambda *_: None)
        begin, cpu = time.monotonic(), time.process_time()
        run_units(name, units, scratch / name, executor, lambda *_: None)
        return (time.monotonic() - begin) / UNITS, (time.process_time() - cpu) / UNITS

    with open_executor(1) as thread:
        _, alone = timed("thread", thread)
    with LocalDask(scratch) as dask:
        (worker,) = dask.add_workers(1)
        with dask_executor(dask.address, scratch / "shared") as executor:
            before = _cpu([dask.scheduler.pid]), _cpu([worker.pid])
            wall, parent = timed("dask", executor)
            after = _cpu([dask.scheduler.pid]), _cpu([worker.pid])
    scheduler, work = ((b - a) / UNITS for a, b in zip(before, after, strict=True))
    return {
        "units": UNITS,
        "wall_s": wall,
        "parent_s": parent,
        "scheduler_s": scheduler,
        "worker_s": work,
        "parent_of_a_thread_s": alone,
    }


def _prepare(scratch: Path, table: Path, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch) as name, LocalDask(Path(name)) as dask:
        pids = [worker.pid for worker in dask.add_workers(workers)]
        command = [
            sys.executable,
            "cli.py",
            "prepare",
            "--input",
            table,
            "--scheduler",
            dask.address,
        ]
        started = _cpu(pids), _cpu([dask.scheduler.pid])
        written_before, read_before = _bytes(pids)
        before, begin = _children(), time.monotonic()
        process = subprocess.Popen(
            [*map(str, command), "--out", str(Path(name, "out")), "--json"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.02)
        wall, after = time.monotonic() - begin, _children()
        if process.returncode:
            raise RuntimeError(f"prepare on {workers} workers ended with {process.returncode}")
        parent = after - before
        work = _cpu(pids) - started[0]
        written, read = _bytes(pids)
        report = json.loads(Path(name, "out/report.json").read_bytes())
        return {
            "wall_s": wall,
            "parent_s": parent,
            "scheduler_s": _cpu([dask.scheduler.pid]) - started[1],
            "workers_s": work,
            "parent_share": parent / (parent + work),
            "parent_peak_bytes": peak,
            "written_bytes": written - written_before,
            "read_bytes": read - read_before,
            "digest": report["store"]["digest"],
        }


def _plan(scratch: Path, sources: int) -> dict[str, Any]:
    """Cost of planning and finding shards for each pair of a run and a shard; all runs hold the same sources."""
    (scratch / "names.json").write_text(json.dumps(["plan.parquet"]))
    table = pq.read_table(_table(scratch, PLAN_ROWS))
    some = pc.unique(table["src_addr"])[:sources]
    source = scratch / "plan.parquet"
    pq.write_table(table.filter(pc.is_in(table["src_addr"], some)), source)
    prefix = scratch / f"run-{sources}"
    write_runs(
        *(source, source.name, [0], 0, table.schema.names),
        *(scratch / "names.json", prefix, scratch / "rejects.parquet"),
    )
    runs = [scratch / f"{prefix.name}-0000.arrow"] * PLAN
    begin = time.process_time()
    cut = Cut("time", 0.1, find_cut_second(runs, 0.1))
    cutting = time.process_time() - begin

    write_index(scratch, runs)

    def spent(shards: int) -> tuple[list[Range], float, float]:
        begin = time.process_time()
        plan = plan_shards(runs, cut, {"train": shards, "test": 1}, 1)["train"]
        planned = time.process_time()
        for range_ in plan:
            for _ in range_.slices(scratch):
                pass
        return plan, planned - begin, time.process_time() - planned

    (_, first, _), (ranges, planned, found) = spent(1), spent(PLAN)
    rows = PLAN * len(pq.read_table(source, columns=[]))
    return {
        "sources": len(some),
        "row_s": (cutting + first) / rows,
        "pair_s": (planned - first) / PLAN / (PLAN - 1),
        "pair_worker_s": found / PLAN**2,
        "shard_sent_bytes": sum(len(pickle.dumps(range_)) for range_ in ranges) / PLAN,
    }


def _overlap(scratch: Path) -> float:
    """CPU seconds of counting what splits share, for each shard."""
    hashes = np.arange(2000, dtype=np.uint64) << np.uint64(52)
    shards = tuple(ShardFile("", 1, 1, None) for _ in range(PLAN))
    for number in range(PLAN):
        for split in ("train", "test"):
            path = scratch / "distinct" / f"{split}-{number:04d}.npz"
            write_arrays(path, dict.fromkeys(("sources", "destinations", "pairs"), hashes))
    begin = time.process_time()
    count_overlap(scratch / "distinct", {"train": shards, "test": shards})
    return (time.process_time() - begin) / (2 * PLAN)


def _table(folder: Path, rows: int) -> Path:
    """A table of the simulated Internet, in the order of time, in row groups of a quarter of a million."""
    path = folder / f"{rows}.parquet"
    if not path.exists():
        source = folder / "by-source.parquet"
        command = [sys.executable, "cli.py", "simulate", "--rows", str(rows), "--out", str(source)]
        subprocess.run([*command, "--json"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        table = pq.read_table(source)
        order = np.argsort(table["event_time"].cast(pa.int64()).to_numpy(), kind="stable")
        pq.write_table(table.take(order), path, row_group_size=1 << 18)
    return path


def _cpu(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have taken."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(t.user + t.system for t in times))


def _peak(pid: int) -> int:
    """The most memory that a process has held since it began its program; 0 once it has ended."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def _bytes(pids: Iterable[int]) -> tuple[int, int]:
    """Bytes that these processes have written and read, without those of files that they mapped."""
    counters = [psutil.Process(pid).io_counters() for pid in pids]
    return sum(c.write_chars for c in counters), sum(c.read_chars for c in counters)


def _children() -> float:
    """CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cluster", description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="repeatable; 1 and 2 million")
    parser.add_argument("--workers", type=int, action="append", help="repeatable; 1, 2 and 4")
    parser.add_argument("--folder", type=Path, help="where to put the scratch files")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    result = run(options.rows or ROWS, options.workers or WORKERS, options.folder)
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    units = result["units"]
    console = Console(width=120)
    console.print(
        f"a unit: parent {units['parent_s'] * 1e3:.2f} ms of CPU (on a thread of its own "
        f"{units['parent_of_a_thread_s'] * 1e3:.2f}), scheduler {units['scheduler_s'] * 1e3:.2f}, "
        f"worker {units['worker_s'] * 1e3:.2f}; {units['wall_s'] * 1e3:.2f} ms of time"
    )
    console.print(f"planning: parent {result['plan'][0]['row_s'] * 1e9:.0f} ns a row")
    for plan in result["plan"]:
        console.print(
            f"a pair of a run and a shard, {plan['sources']} sources: parent {plan['pair_s'] * 1e6:.1f} µs, worker "
            f"{plan['pair_worker_s'] * 1e6:.0f} µs; a shard is sent as {plan['shard_sent_bytes']:.0f} bytes"
        )
    console.print(
        f"overlap: parent {result['overlap_file_s'] * 1e3:.2f} ms for each shard and pass"
    )
    table = Table(title="Preparing on Dask, CPU seconds", title_justify="left", box=None)
    for name in (
        "workers",
        "rows",
        "wall s",
        "workers'",
        "parent's",
        "share",
        "scheduler's",
        "peak",
    ):
        table.add_column(name, justify="right")
    for found in result["prepare"]:
        table.add_row(
            str(found["workers"]),
            f"{found['rows']:,}",
            f"{found['wall_s']:.1f}",
            f"{found['workers_s']:.1f}",
            f"{found['parent_s']:.1f}",
            f"{found['parent_share']:.1%}",
            f"{found['scheduler_s']:.1f}",
            f"{found['parent_peak_bytes'] / 2**20:,.0f} MiB",
            f"{found['written_bytes'] / found['rows']:.0f} B/row",
            f"{found['read_bytes'] / found['rows']:.0f} B/row",
        )
    console.print(table)
