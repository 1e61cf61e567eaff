"""Where the rows of a folder came from, over all its finished stages up to the split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from pipeline.folder import OutputFolder
from pipeline.records import (
    IngestRecord,
    LedgerFile,
    SimulateRecord,
    SplitRecord,
)
from stores.manifest import InputDigest, LedgerTotals


@dataclass(frozen=True)
class Ledger:
    """Where every row went: rows = train + validation + test + rejected, by input file and in total."""

    files: tuple[LedgerFile, ...]
    totals: LedgerTotals


def inputs(folder: OutputFolder) -> tuple[InputDigest, ...]:
    """The user's own files, sorted by name."""
    found = [entry for record in _records(folder) for entry in record.inputs]
    return tuple(sorted(found, key=lambda entry: entry.name))


def configuration(folder: OutputFolder) -> dict[str, dict[str, Any]]:
    """Options of the stages that ran, by stage, without the input files."""
    return {
        record.STAGE: {
            name: value
            for name, value in record.options.items()
            if name not in ("inputs", "version")
        }
        for record in _records(folder)
    }


def ledger(folder: OutputFolder) -> Ledger:
    """Join the ledgers of ingest, which rejects rows, and of split, which rejects and divides them."""
    split = folder.record(SplitRecord)
    assert split is not None
    ingest = folder.record(IngestRecord)
    divided = {entry.file: entry for entry in split.files}
    files = []
    for entry in ingest.files if ingest else ():
        after = divided.pop(entry.file, LedgerFile(entry.file, 0, 0, 0, {}))
        rejected = Counter(entry.rejected) + Counter(after.rejected)
        files.append(_entry(after, entry.rows, rejected))
    files += [_entry(entry, entry.rows, entry.rejected) for entry in divided.values()]
    return Ledger(tuple(files), sum_ledger(files))


def sum_ledger(files: list[LedgerFile]) -> LedgerTotals:
    """Totals over all files, reasons sorted by name."""
    rejected: Counter[str] = Counter()
    for entry in files:
        rejected.update(entry.rejected)
    return LedgerTotals(
        rows=sum(entry.rows for entry in files),
        train=sum(entry.train for entry in files),
        validation=sum(entry.validation for entry in files),
        test=sum(entry.test for entry in files),
        rejected=dict(sorted(rejected.items())),
    )


def _entry(divided: LedgerFile, rows: int, rejected: Mapping[str, int]) -> LedgerFile:
    entry = replace(divided, rows=rows, rejected=dict(sorted(rejected.items())))
    taken = entry.train + entry.validation + entry.test
    assert rows == taken + sum(rejected.values()), entry
    return entry


def _records(folder: OutputFolder) -> list[IngestRecord | SimulateRecord | SplitRecord]:
    found = (
        folder.record(IngestRecord),
        folder.record(SimulateRecord),
        folder.record(SplitRecord),
    )
    return [record for record in found if record is not None]
