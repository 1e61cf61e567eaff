"""The split stage: measurement tables to train and test shards, 90/10, before any window is cut; on request,
some of train become validation.

runs    validate, parse addresses, sort, spill            pipeline.split.runs
plan    the cut, and the bounds of every shard            pipeline.split.plan
shards  gather, sort, drop exact duplicates, write        pipeline.split.shards
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.folder import OutputFolder
from pipeline.hashed_file import Blocks, FileDigest, hash_file
from pipeline.inputs import InputFile, RemoteInput
from pipeline.measurements import PRB_ID
from pipeline.provenance import sum_ledger
from pipeline.records import (
    CutRecord,
    IngestRecord,
    OutputFile,
    SimulateRecord,
    SplitRecord,
    read_results,
    to_json,
)
from pipeline.split.parquet_input import ParquetSummary, inspect_parquet
from pipeline.split.plan import Cut, find_cut_second, plan_shards
from pipeline.split.ranges import Range, write_index
from pipeline.split.runs import RUN_ROWS, write_runs
from pipeline.split.shards import WrittenShard, write_shard
from pipeline.split.summary import SpilledRuns, count_overlap, ledger_files, shard_files
from pipeline.units import Progress, Unit, run_units
from stores.errors import ConfigError, InputError
from stores.files import write_json
from stores.layout import VALIDATION
from stores.manifest import InputDigest
from stores.measurements.regular_file import changed


@dataclass(frozen=True)
class SplitOptions:
    """How rows are divided.

    by: "time" (the last tenth is test), "source" or "pair" (a stable hash of the key).
    validation: share of all rows that become validation, by the same rule and out of train; `None`: no such split.
    rows_per_shard: about this many rows a shard, unless `train_shards`, `test_shards` fix their number.
    """

    by: str = "time"
    test_fraction: float = 0.1
    rows_per_shard: int = 500_000
    train_shards: int | None = None
    test_shards: int | None = None
    validation: float | None = None

    def __post_init__(self) -> None:
        if self.by not in ("time", "source", "pair"):
            raise ConfigError(f"--by {self.by}: expected time, source or pair")
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"--test-fraction {self.test_fraction}: expected between 0 and 1")
        if self.validation is not None and not 0 < self.validation < 1 - self.test_fraction:
            raise ConfigError(
                f"--validation {self.validation}: expected a share above 0 that leaves rows to train on, below "
                f"{1 - self.test_fraction:g}, because test takes {self.test_fraction:g}"
            )
        for name in ("rows_per_shard", "train_shards", "test_shards"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected 1 or more")

    def noted(self) -> dict[str, Any]:
        """The options as records and manifests have them: without `validation` where that is not asked for, as
        earlier versions noted them, so that a digest stays what it was."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name != "validation" or value is not None
        }

    def cut(self, runs: list[Path]) -> Cut:
        """Where the rows of these runs are divided."""
        second = validation_second = None
        if self.by == "time":
            second = find_cut_second(runs, self.test_fraction)
            if self.validation:
                validation_second = find_cut_second(runs, self.test_fraction + self.validation)
        return Cut(self.by, self.test_fraction, second, self.validation, validation_second)


@dataclass(frozen=True)
class Table:
    """A Parquet file of measurements: where it is, its name in ledgers and errors, and whether an earlier
    stage wrote it (in which case it is not one of the user's inputs, and `sha256` is in that stage's record)."""

    place: Path | RemoteInput
    name: str
    ours: bool = False
    sha256: str = ""


def tables_of(files: Sequence[InputFile]) -> list[Table]:
    """Input files as tables. Raises `InputError` for one that is none."""
    for file in files:
        if file.kind != "parquet":
            raise InputError(
                f"{file.path}: expected a measurement table in Parquet: "
                "use `prepare` or `ingest` for RIPE Atlas results"
            )
    return [
        Table(file if isinstance(file, RemoteInput) else Path(file.path), file.name)
        for file in files
    ]


def own_tables(folder: OutputFolder) -> list[Table]:
    """What `ingest` or `simulate` wrote in this folder, in order; empty if neither has finished."""
    record = folder.record(IngestRecord) or folder.record(SimulateRecord)
    return [
        Table(folder.path / output.path, output.path, ours=True, sha256=output.sha256)
        for output in (record.outputs if record else ())
        if output.path.startswith("measurements/")
    ]


def split(
    tables: Sequence[Table],
    folder: OutputFolder,
    options: SplitOptions,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> SplitRecord:
    """Write DIR/splits/{train,validation,test}/shard_*.parquet and DIR/rejected/split-*.parquet; return the record.

    Memory: one run or shard per worker (about 300 MiB), whatever the number of rows. Raises `InputError` for
    a file that is not a measurement table, and when no file holds a valid row.
    """
    noted = {**options.noted(), "inputs": [_identity(table) for table in tables]}
    record = folder.begin(SplitRecord, noted)
    if record is not None:
        return record

    scratch = folder.scratch(SplitRecord.STAGE)
    markers = scratch / "units"
    ingested = folder.record(IngestRecord)
    origins = [file.file for file in ingested.files] if ingested else []
    names = list(dict.fromkeys([*origins, *(table.name for table in tables)]))
    write_json(scratch / "files.json", names)
    summaries = [inspect_parquet(table.place, table.name) for table in tables]
    units = _run_units(tables, summaries, folder, scratch)
    theirs = [table for table in tables if not table.ours]
    digests = [Unit(f"hash-{i:05d}", _digest, (t.place,)) for i, t in enumerate(theirs)]
    results = run_units("split: sort", [*units, *digests], markers, executor, progress)
    spilled = read_results(results[: len(units)], SpilledRuns, markers)
    digested = read_results(results[len(units) :], FileDigest, markers)
    _check_unchanged(tables, summaries, units, spilled, digested)
    runs = [scratch / "runs" / name for result in spilled for name in result.runs]
    if not runs:
        raise InputError(_no_rows(tables, spilled))

    cut = options.cut(runs)
    wanted = {"train": options.train_shards, VALIDATION: None, "test": options.test_shards}
    plan = plan_shards(runs, cut, wanted, options.rows_per_shard)
    write_index(scratch / "runs", runs)
    with_probes = any(PRB_ID.name in summary.columns for summary in summaries)
    units = _shard_units(plan, cut, with_probes, folder, scratch)
    results = run_units("split: shards", units, markers, executor, progress)
    written = read_results(results, WrittenShard, markers)

    counts = {side: len(shards) for side, shards in plan.items()}
    shards = shard_files(counts, written)
    files = ledger_files(names, spilled, counts, written)
    return folder.finish(
        SplitRecord(
            options=noted,
            inputs=tuple(
                InputDigest(table.name, found.size, found.sha256)
                for table, found in zip(theirs, digested, strict=True)
            ),
            cut=CutRecord(**asdict(cut)),
            files=tuple(file for file in files if file.rows),
            totals=sum_ledger(files),
            shards=shards,
            outputs=tuple(
                OutputFile(shard.path, shard.size) for side in shards for shard in shards[side]
            ),
            overlap=count_overlap(scratch / "distinct", shards),
            simulated=any(summary.simulated for summary in summaries),
        )
    )


def _run_units(
    tables: Sequence[Table],
    summaries: Sequence[ParquetSummary],
    folder: OutputFolder,
    scratch: Path,
) -> list[Unit]:
    """Units of pass one, each some row groups of one file."""
    units: list[Unit] = []
    for table, summary in zip(tables, summaries, strict=True):
        first_row = 0
        groups: list[int] = []
        held = 0
        for group, rows in enumerate(summary.row_groups):
            groups.append(group)
            held += rows
            if held >= RUN_ROWS or group == len(summary.row_groups) - 1:
                name = f"runs-{len(units):05d}"
                arguments = (
                    table.place,
                    table.name,
                    groups,
                    first_row,
                    summary.columns,
                    scratch / "files.json",
                    scratch / "runs" / name,
                    folder.path / "rejected" / f"split-{name}.parquet",
                )
                # earlier versions' units, named differently, did not say what they had read
                units.append(Unit(f"sort-{len(units):05d}", write_runs, arguments))
                first_row += held
                groups, held = [], 0
    return units


def _shard_units(
    plan: dict[str, list[Range]],
    cut: Cut,
    with_probes: bool,
    folder: OutputFolder,
    scratch: Path,
) -> list[Unit]:
    return [
        Unit(
            f"shard-{split}-{i:04d}",  # earlier versions' units were told their slices
            write_shard,
            (
                scratch / "runs",
                range_,
                cut,
                split,
                with_probes,
                scratch / "files.json",
                folder.path / "splits" / split / f"shard_{i:04d}.parquet",
                scratch / "distinct" / f"{split}-{i:04d}.npz",
                folder.path / "rejected" / f"split-{split}-{i:04d}.parquet",
            ),
        )
        for split in plan
        for i, range_ in enumerate(plan[split])
    ]


def _digest(place: Path | RemoteInput) -> dict[str, Any]:
    """A unit: the hash of an input file. Returns a `FileDigest` as JSON."""
    return to_json(hash_file(place))


def _check_unchanged(
    tables: Sequence[Table],
    summaries: Sequence[ParquetSummary],
    units: Sequence[Unit],
    spilled: Sequence[SpilledRuns],
    digested: Sequence[FileDigest],
) -> None:
    """Raise `InputError` unless the plan and all units read the bytes of the user's files that were hashed."""
    read: dict[Path | RemoteInput, list[Blocks]] = {}
    for unit, result in zip(units, spilled, strict=True):
        read.setdefault(unit.arguments[0], []).append(result.blocks)
    digests = iter(digested)
    for table, summary in zip(tables, summaries, strict=True):
        if not table.ours:
            digest = next(digests)
            blocks = [summary.blocks, *read.get(table.place, [])]
            if not all(digest.holds(summary.size, some) for some in blocks):
                raise changed(_path(table))


def _identity(table: Table) -> list[Any]:
    """What tells a table from others: the time of one that an earlier stage wrote says nothing."""
    if isinstance(table.place, RemoteInput):
        return table.place.identity
    try:
        stat = table.place.stat()
    except OSError as error:
        raise InputError(f"{table.place}: cannot be read: {error.strerror}") from error
    if not table.ours:
        return [table.name, stat.st_size, stat.st_mtime_ns]
    return [table.name, stat.st_size, *([table.sha256] if table.sha256 else [])]


def _path(table: Table) -> str | Path:
    """What messages call a table."""
    return table.place.path if isinstance(table.place, RemoteInput) else table.place


def _no_rows(tables: Sequence[Table], spilled: list[SpilledRuns]) -> str:
    reasons: Counter[str] = Counter()
    for result in spilled:
        for entry in result.files.values():
            reasons.update(entry.rejected)
    found = f"{reasons.total():,} rows, all rejected" if reasons else "no rows at all"
    if reasons:
        found += " (" + ", ".join(f"{k} {v:,}" for k, v in reasons.most_common(3)) + ")"
    where = tables[0].name if len(tables) == 1 else f"{len(tables)} files from {tables[0].name}"
    return f"{where}: {found}: nothing to split"
