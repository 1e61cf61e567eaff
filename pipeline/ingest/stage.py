"""From RIPE Atlas files to the measurement table: parse, find duplicates, write.

1. *parse*: files in batches, a large bzip2 file of NDJSON in pieces; each result becomes a row of a part, or a
   reject with its reason (`pipeline.ingest.parse`).
2. *duplicates*: found among the identities of all rows, partition by partition
   (`pipeline.ingest.duplicates`).
3. *write*: `measurements/part-*.parquet`, the parts without their duplicates.

The same input gives the same bytes with any number of workers.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.folder import OutputFolder
from pipeline.ingest.duplicates import FoundDuplicates, find_duplicates
from pipeline.ingest.parse import parse_inputs
from pipeline.ingest.rejects import number_rejects
from pipeline.ingest.units import ParsedFile, WrittenPart, write_part
from pipeline.inputs import InputFile, RemoteInput
from pipeline.records import (
    IngestedFile,
    IngestedTotals,
    IngestRecord,
    MeasurementFile,
    SimulateRecord,
    read_results,
)
from pipeline.units import Progress, Unit, run_units
from stores.errors import ConfigError, InputError
from stores.manifest import InputDigest
from stores.measurements.atlas_result import Source, Statistic

BATCHES = 64  # about this many, within these bounds:
MIN_BATCH_BYTES, MAX_BATCH_BYTES = 4 << 20, 32 << 20
BATCH_FILES = 256
PARTITION_BYTES = 64 << 20  # of input; one to two million rows where it is compressed
MAX_PARTITIONS = 256


@dataclass(frozen=True)
class IngestOptions:
    """How a result becomes a row; see `stores.measurements.atlas_result.make_parser`."""

    source: Source = "from"
    allow_private: bool = False
    rtt: Statistic = "mean"


def ingest(
    inputs: Sequence[InputFile],
    folder: OutputFolder,
    options: IngestOptions,
    executor: concurrent.futures.Executor,
    progress: Progress,
    left_out: Sequence[str] = (),
) -> IngestRecord:
    """Write DIR/measurements from RIPE Atlas files, and the rejects to DIR/rejected/ingest-*.parquet;
    return the record.

    `left_out` names the files that were skipped, for the record. Takes about 300 MB per worker, whatever
    the input. Raises `InputError` for an input that is unreadable, cut off or another table, and when no row is
    accepted; `ConfigError` when the folder holds a simulation or was started with other options.
    """
    noted = asdict(options) | {"inputs": [file.identity for file in inputs]}
    if (record := folder.begin(IngestRecord, noted)) is not None:
        return record
    _check(inputs, folder)

    scratch = folder.scratch(IngestRecord.STAGE)
    parts_folder, markers = scratch / "parts", scratch / "units"
    rejected, measurements = folder.path / "rejected", folder.path / "measurements"

    partitions = _count_partitions(inputs)
    rules = (options.source, options.allow_private, options.rtt)
    longest = _batch_bytes(inputs)
    batches = list(_batches(inputs, longest))
    parsed = parse_inputs(
        batches, longest, rules, scratch, rejected, partitions, executor, progress
    )
    files, parts = parsed.files, [numbered.part for numbered in parsed.parts]
    _check_accepted(files)

    identities = [parts_folder / f"{part.name}.arrow" for part in parts]
    duplicates = [scratch / "duplicates" / f"{i:05d}.arrow" for i in range(partitions)]
    units = [
        Unit(f"duplicates-{i:05d}", find_duplicates, (identities, i, path))
        for i, path in enumerate(duplicates)
    ]
    results = run_units("ingest: duplicates", units, markers, executor, progress)
    found = read_results(results, FoundDuplicates, markers)
    dropped = np.sum([partition.dropped for partition in found], axis=0).tolist()

    units, number = [], 0
    for i, (numbered, count) in enumerate(zip(parsed.parts, dropped, strict=True)):
        part = numbered.part
        output = None  # nothing is left of a part that only repeats others
        if count < part.rows:
            output = measurements / f"part-{number:05d}.parquet"
            number += 1
        source = parts_folder / f"{part.name}.parquet"
        rejects = rejected / f"ingest-duplicates-{part.name}.parquet"
        arguments: tuple[Any, ...] = (source, i, duplicates if count else [], output, rejects)
        if numbered.lines:
            arguments += (numbered.lines,)
        units.append(Unit(f"write-{i:05d}", write_part, arguments))
    for i, piece in enumerate(parsed.rejects):
        arguments = (piece.source, piece.lines, piece.output)
        units.append(Unit(f"rejects-{i:05d}", number_rejects, arguments))
    results = run_units("ingest: write", units, markers, executor, progress)
    written = read_results(results[: len(parts)], WrittenPart, markers)

    duplicate: Counter[str] = Counter()  # rows by file
    for result in written:
        duplicate.update(result.duplicates)
    ledger = [_ledger_entry(file, duplicate) for file in files]
    outputs = [result.output for result in written if result.output]
    return folder.finish(
        IngestRecord(
            options=noted,
            inputs=tuple(InputDigest(file.name, file.size, file.sha256) for file in files),
            files=tuple(ledger),
            totals=_totals(ledger, outputs),
            outputs=tuple(outputs),
            left_out=tuple(left_out),
        )
    )


def _check(inputs: Sequence[InputFile], folder: OutputFolder) -> None:
    for file in inputs:
        if file.kind == "parquet":
            raise InputError(
                f"{file.path}: a Parquet file, but ingest reads RIPE Atlas JSON and RIPE's BigQuery tables: "
                "pass measurement tables to prepare or split"
            )
    if folder.has_begun(SimulateRecord):
        raise ConfigError(
            f"{folder.path}: holds measurements of a simulated Internet: choose another --out"
        )


def _batch_bytes(inputs: Sequence[InputFile]) -> int:
    """The size that a batch of files, or a piece of one, is to have at most."""
    total = sum(file.size for file in inputs)
    return min(MAX_BATCH_BYTES, max(MIN_BATCH_BYTES, total // BATCHES))


def _batches(inputs: Sequence[InputFile], limit: int) -> Iterator[tuple[InputFile, ...]]:
    """Group consecutive files into batches of at most `limit` bytes; a larger file, or one of which no server
    says how large it is, is a batch of its own."""
    batch: list[InputFile] = []
    size = 0
    for file in inputs:
        weight = limit if isinstance(file, RemoteInput) and not file.sized else file.size
        if batch and (size + weight > limit or len(batch) == BATCH_FILES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(file)
        size += weight
    yield tuple(batch)


def _count_partitions(inputs: Sequence[InputFile]) -> int:
    return min(MAX_PARTITIONS, 1 + sum(file.size for file in inputs) // PARTITION_BYTES)


def _check_accepted(files: Sequence[ParsedFile]) -> None:
    if any(file.accepted for file in files):
        return
    reasons: Counter[str] = Counter()
    for file in files:
        reasons.update(file.rejected)
    top = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
    rows, count = sum(file.rows for file in files), len(files)
    where = files[0].name if count == 1 else f"{count} input files (the first: {files[0].name})"
    raise InputError(
        f"no usable ping result in {where}: "
        f"{rows:,} record{'s' * (rows != 1)}, rejected: {top or 'none'}"
    )


def _ledger_entry(file: ParsedFile, duplicate: Mapping[str, int]) -> IngestedFile:
    """The ledger of a file, with its duplicates moved from accepted to rejected."""
    rejected = dict(file.rejected)
    count = duplicate.get(file.name, 0)
    if count:
        rejected["duplicate"] = rejected.get("duplicate", 0) + count
    entry = IngestedFile(
        file.name, file.rows, file.accepted - count, dict(sorted(rejected.items()))
    )
    assert entry.rows == entry.accepted + sum(rejected.values()), entry
    return entry


def _totals(files: Sequence[IngestedFile], outputs: Sequence[MeasurementFile]) -> IngestedTotals:
    rejected: Counter[str] = Counter()
    for file in files:
        rejected.update(file.rejected)
    totals = IngestedTotals(
        rows=sum(file.rows for file in files),
        accepted=sum(file.accepted for file in files),
        rejected=dict(sorted(rejected.items())),
    )
    assert totals.rows == totals.accepted + sum(rejected.values()), totals
    assert totals.accepted == sum(output.rows for output in outputs), totals
    return totals
