"""The units of `ingest`: parse a batch of files into parts, and write a part without its
duplicates."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ingest.duplicates import read_duplicates
from pipeline.ingest.parts import Part, PartWriter, copy_part, write_table
from pipeline.ingest.rejects import IngestRejects
from pipeline.ingest.tables import take_table
from pipeline.input_stream import open_input
from pipeline.inputs import InputFile
from pipeline.records import MeasurementFile, Record, to_json
from pipeline.rejects import RejectWriter, as_json
from stores.files import sha256_file
from stores.measurements.atlas_json import Span, find_results
from stores.measurements.atlas_result import Row, Source, Statistic, make_parser, make_rule
from stores.measurements.json_scanner import RESULT, SPAN_REASONS


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
    rules = (source, allow_private, statistic)
    parse, rule = make_parser(*rules), make_rule(*rules)
    entries = []
    with (
        PartWriter(parts, stem, partitions) as part_writer,
        IngestRejects(rejected / f"ingest-{stem}.parquet") as rejects,
    ):
        for file in files:
            part_writer.start_file(file.name)
            rejects.start_file(file.name)
            if file.kind == "bigquery":
                rows, accepted, sha256 = take_table(file, rule, part_writer, rejects)
                size = file.size
            else:
                with open_input(file) as stream:
                    found = find_results(stream.blocks())
                    rows, accepted = take_results(found, parse, part_writer, rejects)
                size, sha256 = stream.size, stream.sha256
            entries.append(ParsedFile(file.name, size, sha256, rows, accepted, rejects.counts()))
    return to_json(ParsedBatch(entries, part_writer.parts))


def take_results(
    found: Iterable[tuple[memoryview, list[Span]]],
    parse: Callable[[memoryview | bytes], Row | str],
    parts: PartWriter,
    rejects: IngestRejects,
) -> tuple[int, int]:
    """Turn everything that was found in a file into a row or a reject; return the numbers of all and of rows."""
    rows = accepted = 0
    for data, spans in found:
        rows += len(spans)
        for start, end, kind, number in spans:
            outcome: Row | str
            if kind != RESULT:
                outcome = SPAN_REASONS[kind]
            elif start < 0:
                outcome = "too_long"
            else:
                outcome = parse(data[start:end])
            if isinstance(outcome, tuple):
                parts.add(outcome, number)
                accepted += 1
            else:
                rejects.add(number, outcome, data[start:end] if start >= 0 else None)
    return rows, accepted


def write_part(
    source: Path,
    part: int,
    duplicates: list[Path],
    output: Path | None,
    rejects: Path,
    lines: int = 0,
) -> dict[str, Any]:
    """A unit: write a part without its duplicates to `output` (`None` if nothing is left), and the
    duplicates to `rejects`. `lines` of the input file come before those that the part counts from 1.

    Returns a `WrittenPart` as JSON.
    """
    dropped: dict[str, int] = {}
    if not duplicates and not lines:
        assert output is not None
        copy_part(source, output)
    else:
        table = pq.read_table(source)
        column = table.schema.get_field_index("source_row")
        numbers = pc.add(table.column(column), lines)
        table = table.set_column(column, table.schema.field(column), numbers)
        keep = np.ones(len(table), bool)
        if duplicates:
            keep[read_duplicates(duplicates, part)] = False
        if duplicates:
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
