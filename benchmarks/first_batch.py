"""What `train` does before its first step, compiling aside: from a process's start to the first batch of a store.

Each store, of the simulated Internet, is read twice: "cold", once its files have left the system's page
cache, and "warm", from there. With `--bucket`, it is also pushed to an S3 server on this machine and read from its
URL, with an empty cache folder and a full one; beside that, `curl` downloads the same files, as many at once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = [2_000_000, 10_000_000]

_CHILD = """
import json, resource, sys, time
began = float(sys.argv[2])
points = {}
def reached(point):
    points[point] = round(time.monotonic() - began - sum(points.values()), 3)
from model.config import PRESETS
from model.training.batches import make_batches
from model.training.held_out import fixed_batches
from stores.sampler import MixtureSampler
from stores.union import open_stores
from stores.urls import is_url
reached("import")
config = PRESETS["tiny"]
train, context = config.train, config.model.context
place = sys.argv[1]
if is_url(place):
    from stores.pull import cached
    place, _ = cached(place)
    reached("pull")
store = open_stores(place)
reached("open")
batches = make_batches(config, MixtureSampler(store, "train", train.batch_size, train.seed))
reached("find pairs")
fixed_batches(store, train.eval_batches, context, store.choosing_split)
reached("held out")
batches.batch(0)
reached("first batch")
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "wall_s": round(sum(points.values()), 2),
    "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
    "read_mb": usage.ru_inblock // 2048,
    "points": points,
}))
"""


def run(
    rows: list[int], stores: list[Path], folder: Path | None = None, bucket: bool = False
) -> dict[str, Any]:
    """Seconds of wall and CPU time, and megabytes read from the disk, cold and warm, by number of rows or store."""

    def read(store: Path) -> dict[str, Any]:
        return _cold_and_warm(store) | (_from_bucket(store, folder) if bucket else {})

    result: dict[str, Any] = {str(store): read(store) for store in stores}
    for count in rows:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            prepare = [sys.executable, "cli.py", "prepare", "--rows", str(count), "--out", scratch]
            subprocess.run([*prepare, "--json"], check=True, stdout=subprocess.DEVNULL)
            result[f"{count:,}"] = read(Path(scratch, "store.zarr"))
    return result


def _cold_and_warm(store: Path) -> dict[str, Any]:
    for file in filter(Path.is_file, store.rglob("*")):
        _forget(file)
    return {state: _first_batch(store) for state in ("cold", "warm")}


def _from_bucket(store: Path, folder: Path | None) -> dict[str, Any]:
    """The same from a bucket, and what `curl` takes to download it."""
    from tests.s3_server import SERVER, environment, new_bucket, s3_server

    if not SERVER.exists():
        sys.exit(f"error: {SERVER}: there is no S3 server: run `make setup`")
    with s3_server() as server, tempfile.TemporaryDirectory(dir=folder) as cache:
        url = f"{new_bucket(server)}/store"
        places = os.environ | environment(server) | {"XDG_CACHE_HOME": cache}
        push = [sys.executable, "cli.py", "push", str(store), url, "--json"]
        subprocess.run(push, check=True, stdout=subprocess.DEVNULL, env=places)
        files = [file.relative_to(store) for file in store.rglob("*") if file.is_file()]
        there = f"{server}/{url.removeprefix('s3://')}"
        size = sum((store / file).stat().st_size for file in files)
        found = {"curl": _curl([f"{there}/{file}" for file in files], size)}
        for state in ("empty cache", "full cache"):
            found[state] = _first_batch(url, places)
        return found


def _curl(urls: list[str], size: int) -> dict[str, Any]:
    """Download objects of `size` bytes together, as many at once as `pull` does, and keep nothing."""
    from stores.copies import PARALLEL
    from tests.s3_server import SIGNED

    options = ["--parallel", "--parallel-max", PARALLEL, "--fail", "--no-progress-meter"]
    options += [word for name, value in SIGNED.items() for word in ("--header", f"{name}: {value}")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    outputs = [word for url in urls for word in ("--output", "/dev/null", url)]
    subprocess.run(["curl", *map(str, options), *outputs], check=True)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "read_mb": size >> 20, "points": {}}


def _forget(file: Path) -> None:
    """Take a file out of the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # what is not on disk yet would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _first_batch(store: Path | str, variables: dict[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, "-c", _CHILD, str(store), str(time.monotonic())]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, env=variables).stdout
    )
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks first_batch", description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="repeatable; 2 M and 10 M")
    parser.add_argument("--store", type=Path, action="append", help="one that is there, instead")
    parser.add_argument("--bucket", action="store_true", help="also from an S3 server")
    parser.add_argument("--folder", type=Path, help="where to put the scratch files")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    rows = options.rows or ([] if options.store else ROWS)
    result = run(rows, options.store or [], options.folder, options.bucket)
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    table = Table(title="From start to first batch", title_justify="left", box=None)
    for column in ("store", "from"):
        table.add_column(column)
    for column in ("wall s", "CPU s", "MB read"):
        table.add_column(column, justify="right")
    table.add_column("of the wall time")
    for name, states in result.items():
        for state, numbers in states.items():
            points = ", ".join(
                f"{point} {seconds:.2f}" for point, seconds in numbers["points"].items()
            )
            table.add_row(
                name,
                state,
                f"{numbers['wall_s']:.1f}",
                f"{numbers['cpu_s']:.1f}",
                f"{numbers['read_mb']:,}",
                points,
            )
    Console(width=120).print(table)
