"""RIPE Atlas files to the measurement table: parse, find duplicates, write.

1. *parse*: files in batches; each result becomes a row of a part, or a reject with its reason.
2. *duplicates*: over the identities of all rows, partition by partition (`pipeline.ingest.stage.duplicates`).
3. *write*: `measurements/part-*.parquet`, the parts without their duplicates.

The same input gives the same bytes with any number of workers.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.folder import OutputFolder
from pipeline.ingest.atlas_result import Source, Statistic
from pipeline.ingest.duplicates import find_duplicates
from pipeline.ingest.units import parse_files, write_part
from pipeline.inputs import InputFile
from pipeline.units import Progress, Unit, run_units
from stores.errors import ConfigError, InputError

STAGE = "ingest"

BATCHES = 64  # about so many, within these bounds:
MIN_BATCH_BYTES, MAX_BATCH_BYTES = 4 << 20, 32 << 20
BATCH_FILES = 256
PARTITION_BYTES = 64 << 20  # of input; one to two million rows where it is compressed
MAX_PARTITIONS = 256


@dataclass(frozen=True)
class IngestOptions:
    """How a result becomes a row; see `pipeline.ingest.stage.atlas_result.make_parser`."""

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
) -> dict[str, Any]:
    """Write DIR/measurements from RIPE Atlas files, and the rejects to
    DIR/rejected/ingest-*.parquet.

    Returns the stage's record: `inputs` (name, size, sha256), `files` (the ledger of each: file,
    rows, accepted, rejected by reason), `totals`, `outputs` (path, rows, size), `left_out`. Memory
    is about 300 MB a worker, whatever the input. Raises `InputError` for an input that is
    unreadable, cut off or Parquet, and when no row is accepted.
    """
    noted = asdict(options) | {"inputs": [[file.name, file.size, file.mtime_ns] for file in inputs]}
    if (record := folder.begin(STAGE, noted)) is not None:
        return record
    _check(inputs, folder)

    scratch = folder.scratch(STAGE)
    parts_folder, markers = scratch / "parts", scratch / "units"
    rejected, measurements = folder.path / "rejected", folder.path / "measurements"

    partitions = _count_partitions(inputs)
    units = [
        Unit(
            f"parse-{i:05d}",
            parse_files,
            (
                batch,
                options.source,
                options.allow_private,
                options.rtt,
                parts_folder,
                rejected,
                f"{i:05d}",
                partitions,
            ),
        )
        for i, batch in enumerate(_batches(inputs))
    ]
    parsed = run_units("ingest: parse", units, markers, executor, progress)
    files = [file for result in parsed for file in result["files"]]
    parts = [part for result in parsed for part in result["parts"]]
    _check_accepted(files)

    identities = [parts_folder / f"{part['name']}.arrow" for part in parts]
    duplicates = [scratch / "duplicates" / f"{i:05d}.arrow" for i in range(partitions)]
    units = [
        Unit(f"duplicates-{i:05d}", find_duplicates, (identities, i, path))
        for i, path in enumerate(duplicates)
    ]
    found = run_units("ingest: duplicates", units, markers, executor, progress)
    dropped = np.sum([result["dropped"] for result in found], axis=0).tolist()

    units, number = [], 0
    for i, (part, count) in enumerate(zip(parts, dropped, strict=True)):
        output = None  # nothing is left of a part that only repeats others
        if count < part["rows"]:
            output = measurements / f"part-{number:05d}.parquet"
            number += 1
        source = parts_folder / f"{part['name']}.parquet"
        rejects = rejected / f"ingest-duplicates-{part['name']}.parquet"
        arguments = (source, i, duplicates if count else [], output, rejects)
        units.append(Unit(f"write-{i:05d}", write_part, arguments))
    written = run_units("ingest: write", units, markers, executor, progress)

    _count_duplicates(files, written)
    outputs = [result["output"] for result in written if result["output"]]
    return folder.finish(
        STAGE,
        noted,
        {
            "inputs": [{key: file[key] for key in ("name", "size", "sha256")} for file in files],
            "files": [_ledger_entry(file) for file in files],
            "totals": _totals(files, outputs),
            "outputs": outputs,
            "left_out": list(left_out),
        },
    )


def _check(inputs: Sequence[InputFile], folder: OutputFolder) -> None:
    for file in inputs:
        if file.kind == "parquet":
            raise InputError(
                f"{file.path}: a Parquet file, but ingest reads RIPE Atlas JSON: give a "
                "measurement table to prepare or split"
            )
    if folder.record("simulate") is not None or folder.scratch("simulate").exists():
        raise ConfigError(
            f"{folder.path}: its measurements are a simulated Internet's: choose another --out"
        )


def _batches(inputs: Sequence[InputFile]) -> Iterator[tuple[InputFile, ...]]:
    """Consecutive files of a few MiB together, a large one alone."""
    total = sum(file.size for file in inputs)
    limit = min(MAX_BATCH_BYTES, max(MIN_BATCH_BYTES, total // BATCHES))
    batch: list[InputFile] = []
    size = 0
    for file in inputs:
        if batch and (size + file.size > limit or len(batch) == BATCH_FILES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(file)
        size += file.size
    yield tuple(batch)


def _count_partitions(inputs: Sequence[InputFile]) -> int:
    return min(MAX_PARTITIONS, 1 + sum(file.size for file in inputs) // PARTITION_BYTES)


def _check_accepted(files: list[dict[str, Any]]) -> None:
    if any(file["accepted"] for file in files):
        return
    reasons: Counter[str] = Counter()
    for file in files:
        reasons.update(file["rejected"])
    top = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
    raise InputError(
        f"no ping result to take in {len(files)} input files (the first: {files[0]['name']}): "
        f"{sum(file['rows'] for file in files)} records, rejected: {top or 'none'}"
    )


def _count_duplicates(files: list[dict[str, Any]], written: list[dict[str, Any]]) -> None:
    """Move the duplicates from `accepted` to `rejected` in the ledger of their files."""
    by_name = {file["name"]: file for file in files}
    for result in written:
        for name, count in result["duplicates"].items():
            file = by_name[name]
            file["accepted"] -= count
            file["rejected"]["duplicate"] = file["rejected"].get("duplicate", 0) + count


def _ledger_entry(file: dict[str, Any]) -> dict[str, Any]:
    assert file["rows"] == file["accepted"] + sum(file["rejected"].values()), file
    return {
        "file": file["name"],
        "rows": file["rows"],
        "accepted": file["accepted"],
        "rejected": dict(sorted(file["rejected"].items())),
    }


def _totals(files: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    rejected: Counter[str] = Counter()
    for file in files:
        rejected.update(file["rejected"])
    totals = {
        "rows": sum(file["rows"] for file in files),
        "accepted": sum(file["accepted"] for file in files),
        "rejected": dict(sorted(rejected.items())),
    }
    assert totals["rows"] == totals["accepted"] + sum(rejected.values()), totals
    assert totals["accepted"] == sum(output["rows"] for output in outputs), totals
    return totals
