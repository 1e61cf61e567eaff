"""The user's canonical Parquet files: their schema is checked, and they are read as tables of one form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.measurements import ORIGIN, PRB_ID, SCHEMA
from stores.errors import InputError

_ADDRESSES = ("src_addr", "dst_addr", "source_file")


@dataclass(frozen=True)
class ParquetSummary:
    """What the footer of a file says."""

    rows: int
    row_groups: list[int]  # rows of each
    columns: list[str]  # those of the canonical table, then the optional ones present


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    """Turn errors of PyArrow into an `InputError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, InputError):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: cannot be read as Parquet ({path}): {text}") from error


def inspect_parquet(path: Path, name: str) -> ParquetSummary:
    """Read the footer and check the schema against `pipeline.measurements.SCHEMA`.

    Raises `InputError` naming the file, the column, and the type expected and found.
    """
    with _reading(path, name), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    columns = []
    for field in (*SCHEMA, PRB_ID, *ORIGIN):
        if schema.get_field_index(field.name) < 0:
            if field in SCHEMA:
                raise InputError(
                    f"{name}: column {field.name} is missing: expected a measurement table with "
                    f"{', '.join(SCHEMA.names)}"
                )
            continue
        found = schema.field(field.name).type
        if not _fits(field.type, found):
            raise InputError(f"{name}: column {field.name} has type {found}, expected {field.type}")
        columns.append(field.name)
    return ParquetSummary(sum(groups), groups, columns)


def read_tables(
    path: Path, name: str, row_groups: list[int], columns: list[str], rows: int
) -> Iterator[pa.Table]:
    """Yield tables of about `rows` rows from some row groups, in order, with canonical types.

    Addresses come as dictionary<int32, string> with one dictionary per table, times as microseconds in UTC,
    numbers as int64 and float64. Row groups are streamed, however large, and never held whole.
    """
    with _reading(path, name):
        as_dictionary = [column for column in columns if column in _ADDRESSES]
        # mapped: a plain read would hold a whole row group's bytes, whatever the batch size
        with pq.ParquetFile(path, read_dictionary=as_dictionary, memory_map=True) as file:
            batches: list[pa.RecordBatch] = []
            held = 0
            for batch in file.iter_batches(
                rows, row_groups=row_groups, columns=columns, use_threads=False
            ):
                if held and held + len(batch) > rows:
                    yield _canonical(batches)
                    batches, held = [], 0
                batches.append(batch)
                held += len(batch)
            if held:
                yield _canonical(batches)


def _fits(expected: pa.DataType, found: pa.DataType) -> bool:
    """Whether a column of type `found` is accepted where `expected` is wanted."""
    kinds = pa.types
    if kinds.is_dictionary(found):
        found = found.value_type
    if kinds.is_dictionary(expected) or kinds.is_string(expected):
        checks = [kinds.is_string, kinds.is_large_string, kinds.is_string_view]
    elif kinds.is_timestamp(expected):
        checks = [kinds.is_timestamp]
    elif kinds.is_floating(expected):
        checks = [kinds.is_floating]
    else:
        checks = [kinds.is_integer]
    return any(check(found) for check in checks)


def _canonical(batches: list[pa.RecordBatch]) -> pa.Table:
    types = {field.name: field.type for field in (*SCHEMA, PRB_ID, *ORIGIN)}
    columns = {}
    table = pa.Table.from_batches(batches)
    for name in table.column_names:
        column = table.column(name)
        if name in _ADDRESSES:
            dictionary = pa.dictionary(pa.int32(), pa.string())
            if not pa.types.is_dictionary(column.type):
                column = column.dictionary_encode()
            column = column.cast(dictionary).unify_dictionaries()
        elif pa.types.is_timestamp(column.type):
            # nanoseconds are cut to microseconds; a time without zone is UTC
            column = column.cast(pa.timestamp("us"), safe=False).cast(types[name])
        elif pa.types.is_dictionary(column.type):
            column = column.dictionary_decode().cast(types[name])
        else:
            column = column.cast(types[name])
        columns[name] = column.combine_chunks()
    return pa.table(columns)
