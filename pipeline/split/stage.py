"""The split stage: measurement tables to train and test shards, 90/10, before any window is cut.

runs    validate, parse addresses, sort, spill            pipeline.runs
plan    the cut, and the bounds of every shard            pipeline.split_plan
shards  gather, sort, drop exact duplicates, write        pipeline.shards
"""

from __future__ import annotations

import concurrent.futures
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.folder import OutputFolder
from pipeline.inputs import InputFile
from pipeline.measurements import PRB_ID
from pipeline.split.parquet_input import inspect_parquet
from pipeline.split.plan import Cut, Slice, find_cut_second, plan_shards
from pipeline.split.runs import RUN_ROWS, write_runs
from pipeline.split.shards import write_shard
from pipeline.units import Progress, Unit, run_units
from stores.errors import ConfigError, InputError
from stores.files import sha256_file, write_json
from stores.layout import SPLITS

_DISTINCT_AT_ONCE = 20_000_000  # hashes in memory while counting overlap


@dataclass(frozen=True)
class SplitOptions:
    """How rows are divided.

    by: "time" (the last tenth is test), "source" or "pair" (a stable hash of the key).
    rows_per_shard: about this many rows a shard, unless `train_shards`, `test_shards` fix their number.
    """

    by: str = "time"
    test_fraction: float = 0.1
    rows_per_shard: int = 500_000
    train_shards: int | None = None
    test_shards: int | None = None

    def __post_init__(self) -> None:
        if self.by not in ("time", "source", "pair"):
            raise ConfigError(f"--by {self.by}: expected time, source or pair")
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"--test-fraction {self.test_fraction}: expected between 0 and 1")
        for name in ("rows_per_shard", "train_shards", "test_shards"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected 1 or more")


@dataclass(frozen=True)
class Table:
    """A Parquet file of measurements: where it lies, its name in ledgers and errors, and whether an
    earlier stage wrote it (then it is no input of the user's, and needs no digest)."""

    path: Path
    name: str
    ours: bool = False


def tables_of(files: Sequence[InputFile]) -> list[Table]:
    """Input files as tables. Raises `InputError` for one that is no Parquet."""
    for file in files:
        if file.kind != "parquet":
            raise InputError(
                f"{file.path}: expected Parquet: `prepare` or `ingest` takes other files"
            )
    return [Table(Path(file.path), file.name) for file in files]


def own_tables(folder: OutputFolder) -> list[Table]:
    """What `ingest` or `simulate` wrote in this folder, in order; empty if neither has finished."""
    record = folder.record("ingest") or folder.record("simulate") or {"outputs": []}
    names = [output["path"] for output in record["outputs"]]
    return [
        Table(folder.path / name, name, ours=True)
        for name in names
        if name.startswith("measurements/")
    ]


def split(
    tables: Sequence[Table],
    folder: OutputFolder,
    options: SplitOptions,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> dict[str, Any]:
    """Write DIR/splits/{train,test}/shard_*.parquet and DIR/rejected/split-*.parquet; return the record.

    The record holds `files` (the ledger by input name), `totals`, `shards`, `overlap`, `inputs`.
    Memory: a run or a shard per worker (some 300 MiB), whatever the number of rows. Raises `InputError` for
    files that are no measurement tables or hold no valid row at all.
    """
    noted = {**asdict(options), "inputs": [_identity(table) for table in tables]}
    record = folder.begin("split", noted)
    if record is not None:
        return record

    scratch = folder.scratch("split")
    origins = [file["file"] for file in (folder.record("ingest") or {"files": []})["files"]]
    names = list(dict.fromkeys([*origins, *(table.name for table in tables)]))
    write_json(scratch / "files.json", names)
    units, with_probes = _run_units(tables, folder, scratch)
    theirs = [table for table in tables if not table.ours]
    digests = [Unit(f"digest-{i:05d}", _digest, (t.path,)) for i, t in enumerate(theirs)]
    results = run_units("split: sort", [*units, *digests], scratch / "units", executor, progress)
    spilled, digested = results[: len(units)], results[len(units) :]
    runs = [scratch / "runs" / name for result in spilled for name in result["runs"]]
    if not runs:
        raise InputError(_no_rows(tables, spilled))

    second = find_cut_second(runs, options.test_fraction) if options.by == "time" else None
    cut = Cut(options.by, options.test_fraction, second)
    wanted = {"train": options.train_shards, "test": options.test_shards}
    plan = plan_shards(runs, cut, wanted, options.rows_per_shard)
    units = _shard_units(plan, cut, with_probes, folder, scratch)
    written = run_units("split: shards", units, scratch / "units", executor, progress)

    shards = _shards(plan, written)
    return folder.finish(
        "split",
        noted,
        {
            "inputs": [{"name": t.name, **d} for t, d in zip(theirs, digested, strict=True)],
            "cut": asdict(cut),
            **_ledger(names, spilled, plan, written),
            "shards": shards,
            "outputs": [
                {"path": shard["path"], "size": shard["size"]}
                for s in SPLITS
                for shard in shards[s]
            ],
            "overlap": _overlap(scratch / "distinct", shards),
        },
    )


def _run_units(
    tables: Sequence[Table], folder: OutputFolder, scratch: Path
) -> tuple[list[Unit], bool]:
    """Units of pass one, each some row groups of one file; and whether any file has probe ids."""
    units: list[Unit] = []
    with_probes = False
    for table in tables:
        summary = inspect_parquet(table.path, table.name)
        with_probes |= PRB_ID.name in summary.columns
        first_row = 0
        groups: list[int] = []
        held = 0
        for group, rows in enumerate(summary.row_groups):
            groups.append(group)
            held += rows
            if held >= RUN_ROWS or group == len(summary.row_groups) - 1:
                name = f"runs-{len(units):05d}"
                arguments = (
                    table.path,
                    table.name,
                    groups,
                    first_row,
                    summary.columns,
                    scratch / "files.json",
                    scratch / "runs" / name,
                    folder.path / "rejected" / f"split-{name}.parquet",
                )
                units.append(Unit(name, write_runs, arguments))
                first_row += held
                groups, held = [], 0
    return units, with_probes


def _shard_units(
    plan: dict[str, list[list[Slice]]],
    cut: Cut,
    with_probes: bool,
    folder: OutputFolder,
    scratch: Path,
) -> list[Unit]:
    return [
        Unit(
            f"{split}-{i:04d}",
            write_shard,
            (
                scratch / "runs",
                slices,
                cut,
                split == "test",
                with_probes,
                scratch / "files.json",
                folder.path / "splits" / split / f"shard_{i:04d}.parquet",
                scratch / "distinct" / f"{split}-{i:04d}.npz",
                folder.path / "rejected" / f"split-{split}-{i:04d}.parquet",
            ),
        )
        for split in SPLITS
        for i, slices in enumerate(plan[split])
    ]


def _shards(
    plan: dict[str, list[list[Slice]]], written: list[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Shard files by split, relative to DIR, with rows, bytes and time range."""
    results = iter(written)
    return {
        split: [
            {
                "path": f"splits/{split}/shard_{i:04d}.parquet",
                **{key: result[key] for key in ("rows", "size", "time")},
            }
            for i, result in zip(range(len(plan[split])), results, strict=False)
        ]
        for split in SPLITS
    }


def _ledger(
    names: list[str],
    spilled: list[dict[str, Any]],
    plan: dict[str, list[list[Slice]]],
    written: list[dict[str, Any]],
) -> dict[str, Any]:
    """Rows in = train + test + rejected, by file and in total."""
    files: list[dict[str, Any]] = [
        {"file": name, "rows": 0, "train": 0, "test": 0, "rejected": Counter()} for name in names
    ]
    for result in spilled:
        for index, entry in result["files"].items():
            files[int(index)]["rows"] += entry["rows"]
            files[int(index)]["rejected"].update(entry["rejected"])
    sides = [split for split in SPLITS for _ in plan[split]]
    for split, result in zip(sides, written, strict=True):
        for index, entry in result["files"].items():
            files[int(index)][split] += entry["rows"]
            if entry["duplicate"]:
                files[int(index)]["rejected"]["duplicate"] += entry["duplicate"]
    totals: dict[str, Any] = {"rows": 0, "train": 0, "test": 0, "rejected": Counter()}
    for entry in files:
        assert entry["rows"] == entry["train"] + entry["test"] + entry["rejected"].total(), entry
        for key in ("rows", "train", "test"):
            totals[key] += entry[key]
        totals["rejected"].update(entry["rejected"])
    return {"files": [entry for entry in files if entry["rows"]], "totals": totals}


def _overlap(distinct: Path, shards: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """How many sources, destinations and pairs each split has, and how many both have; time ranges."""
    overlap: dict[str, Any] = {}
    files = {s: [distinct / f"{s}-{i:04d}.npz" for i in range(len(shards[s]))] for s in SPLITS}
    rows = sum(shard["rows"] for split in SPLITS for shard in shards[split])
    passes = max(1, math.ceil(rows / _DISTINCT_AT_ONCE))
    edges = [i * 2**64 // passes for i in range(passes + 1)]
    for kind in ("sources", "destinations", "pairs"):
        counts = Counter(train=0, test=0, both=0)
        for low, high in pairwise(edges):
            train, test = (_union(files[split], kind, low, high - 1) for split in SPLITS)
            both = len(np.intersect1d(train, test, assume_unique=True))
            counts.update(train=len(train), test=len(test), both=both)
        overlap[kind] = dict(counts)
    overlap["time"] = {
        split: _time_range([shard["time"] for shard in shards[split] if shard["time"]])
        for split in SPLITS
    }
    return overlap


def _union(files: list[Path], kind: str, low: int, high: int) -> NDArray[np.uint64]:
    """Distinct hashes from `low` to `high`, ascending, of files that hold them ascending."""
    inside = []
    for file in files:
        with np.load(file) as arrays:
            part = arrays[kind]
        start = np.searchsorted(part, np.uint64(low))
        inside.append(part[start : np.searchsorted(part, np.uint64(high), "right")].copy())
    hashes = np.sort(np.concatenate([*inside, np.empty(0, np.uint64)]))
    return hashes[np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]]


def _time_range(ranges: list[list[int]]) -> list[str] | None:
    if not ranges:
        return None
    ends = min(r[0] for r in ranges), max(r[1] for r in ranges)
    return [datetime.fromtimestamp(end / 1e6, UTC).isoformat() for end in ends]


def _digest(path: Path) -> dict[str, Any]:
    """A unit: size and SHA-256 of an input file."""
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def _identity(table: Table) -> list[Any]:
    try:
        stat = table.path.stat()
    except OSError as error:
        raise InputError(f"{table.path}: cannot be read: {error.strerror}") from error
    return [table.name, stat.st_size, stat.st_mtime_ns]


def _no_rows(tables: Sequence[Table], spilled: list[dict[str, Any]]) -> str:
    reasons: Counter[str] = Counter()
    for result in spilled:
        for entry in result["files"].values():
            reasons.update(entry["rejected"])
    found = f"{reasons.total():,} rows, all rejected" if reasons else "no rows at all"
    if reasons:
        found += " (" + ", ".join(f"{k} {v:,}" for k, v in reasons.most_common(3)) + ")"
    where = tables[0].name if len(tables) == 1 else f"{len(tables)} files from {tables[0].name}"
    return f"{where}: {found}: nothing to split"
