"""The units of `ingest`: parse a batch of files into parts, and write a part without its
duplicates."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ingest.atlas_json import find_results
from pipeline.ingest.atlas_result import Row, Source, Statistic, make_parser
from pipeline.ingest.duplicates import read_duplicates
from pipeline.ingest.json_scanner import BROKEN, OTHER, RESULT, TRUNCATED
from pipeline.ingest.parts import Part, PartWriter, copy_part, write_table
from pipeline.input_stream import open_input
from pipeline.inputs import InputFile
from pipeline.records import MeasurementFile, Record, to_json
from pipeline.rejects import RejectWriter, as_json
from stores.files import sha256_file

_SPAN_REASONS = {OTHER: "not_a_result", BROKEN: "bad_json", TRUNCATED: "truncated"}
_MAX_REJECTED_TEXT = 1 << 16  # bytes of a rejected record that are kept
_REJECTS_AT_ONCE = 1 << 14
_REJECTED_BYTES_AT_ONCE = 16 << 20


class ParsedFile(Record, frozen=True):
    """An input file that was read: rows = accepted + rejected, duplicates still among the accepted."""

    name: str
    size: int
    sha256: str
    rows: int
    accepted: int
    rejected: dict[str, int]


class ParsedBatch(Record, frozen=True):
    """What `parse_files` returns."""

    files: list[ParsedFile]
    parts: list[Part]


class WrittenPart(Record, frozen=True):
    """What `write_part` returns: the file, if any row was left, and the duplicates by input file."""

    output: MeasurementFile | None
    duplicates: dict[str, int]


def parse_files(
    files: Sequence[InputFile],
    source: Source,
    allow_private: bool,
    statistic: Statistic,
    parts: Path,
    rejected: Path,
    stem: str,
    partitions: int,
) -> dict[str, Any]:
    """A unit: write the rows of `files` to `<parts>/<stem>-*.parquet` and their rejects to `<rejected>/`.

    Returns a `ParsedBatch` as JSON. Raises `InputError` for a file that is unreadable, damaged or cut off.
    """
    gc.freeze()  # or every full collection walks everything that the imported modules hold
    parse = make_parser(source, allow_private, statistic)
    entries = []
    with (
        PartWriter(parts, stem, partitions) as part_writer,
        _Rejects(rejected / f"ingest-{stem}.parquet") as rejects,
    ):
        for file in files:
            rows = accepted = 0
            part_writer.start_file(file.name)
            rejects.start_file(file.name)
            with open_input(file) as stream:
                for data, spans in find_results(stream.blocks()):
                    rows += len(spans)
                    for start, end, kind, number in spans:
                        outcome: Row | str
                        if kind != RESULT:
                            outcome = _SPAN_REASONS[kind]
                        elif start < 0:
                            outcome = "too_long"
                        else:
                            outcome = parse(data[start:end])
                        if isinstance(outcome, tuple):
                            part_writer.add(outcome, number)
                            accepted += 1
                        else:
                            rejects.add(number, outcome, data[start:end] if start >= 0 else None)
            entries.append(
                ParsedFile(file.name, file.size, stream.sha256, rows, accepted, rejects.counts())
            )
    return to_json(ParsedBatch(entries, part_writer.parts))


def write_part(
    source: Path, part: int, duplicates: list[Path], output: Path | None, rejects: Path
) -> dict[str, Any]:
    """A unit: write a part without its duplicates to `output` (`None` if nothing is left), and the
    duplicates to `rejects`.

    Returns a `WrittenPart` as JSON.
    """
    dropped: dict[str, int] = {}
    if not duplicates:
        assert output is not None
        copy_part(source, output)
    else:
        table = pq.read_table(source)
        keep = np.ones(len(table), bool)
        keep[read_duplicates(duplicates, part)] = False
        dropped = _reject_duplicates(table.filter(pa.array(~keep)), rejects)
        if output is not None:
            write_table(output, table.filter(pa.array(keep)))
    if output is None:
        return to_json(WrittenPart(None, dropped))
    rows = pq.read_metadata(output).num_rows
    path = f"{output.parent.name}/{output.name}"
    file = MeasurementFile(path, output.stat().st_size, rows, sha256_file(output))
    return to_json(WrittenPart(file, dropped))


def _reject_duplicates(table: pa.Table, path: Path) -> dict[str, int]:
    """Write the rows of `table` to a file of rejects; return how many each input file has."""
    files = table.column("source_file").cast(pa.string())
    with RejectWriter(path) as rejects:
        rejects.add(
            files,
            table.column("source_row").to_numpy(),
            ["duplicate"] * len(table),
            as_json(table.drop_columns(["source_file", "source_row"])),
        )
    return {item["values"]: item["counts"] for item in pc.value_counts(files).to_pylist()}


class _Rejects:
    """Collects the rejects of a unit, counts them by file, and writes them to one Parquet file."""

    def __init__(self, path: Path) -> None:
        self._writer = RejectWriter(path)
        self._file = ""
        self._counts: Counter[str] = Counter()
        self._clear()

    def __enter__(self) -> _Rejects:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._writer.__exit__(kind, error, trace)

    def start_file(self, name: str) -> None:
        """Rejects added from now on come from input `name`."""
        self._file = name
        self._counts = Counter()

    def counts(self) -> dict[str, int]:
        """Rejects of the current file by reason."""
        return dict(sorted(self._counts.items()))

    def add(self, row: int, reason: str, text: memoryview | None) -> None:
        """Reject record number `row` of the current file; at most 64 KiB of its text is kept."""
        self._counts[reason] += 1
        self._files.append(self._file)
        self._rows.append(row)
        self._reasons.append(reason)
        if reason == "other_type" or text is None:
            self._texts.append(None)
        else:
            self._texts.append(bytes(text[:_MAX_REJECTED_TEXT]).decode("utf-8", "replace"))
            self._held += len(text)
        if len(self._rows) == _REJECTS_AT_ONCE or self._held > _REJECTED_BYTES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            rows = np.array(self._rows, np.int64)
            self._writer.add(self._files, rows, self._reasons, self._texts)
            self._clear()

    def _clear(self) -> None:
        self._files: list[str] = []
        self._rows: list[int] = []
        self._reasons: list[str] = []
        self._texts: list[str | None] = []
        self._held = 0
