"""Measurements in Parquet: the measurement table, or the names of text files as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from stores.errors import InputError
from stores.measurements.given import FIELDS, TABLE_NAMES, Given
from stores.measurements.parquet_file import (
    ADDRESS_BYTES,
    check_text,
    open_parquet,
    reading,
    row_groups,
)

ROWS_AT_ONCE = 1 << 12


def table_rows(source: Any, path: str, name: str) -> Iterator[Given]:
    """Rows of a Parquet file, which is open in binary. Raises `InputError` naming the column that is missing or of
    another type."""
    with reading(path, name), open_parquet(source) as file:
        names = columns_of(file.schema_arrow, name)
        for group in row_groups(file, source):
            check_text(group, name, {names[field]: ADDRESS_BYTES for field in ("src", "dst")})
        row = 0
        for batch in file.iter_batches(
            ROWS_AT_ONCE, columns=list(names.values()), use_threads=False
        ):
            for given in batch_rows(batch, names):
                row += 1
                yield given._replace(row=row)


def columns_of(schema: pa.Schema, name: str) -> dict[str, str]:
    """Names of the columns to read, by those of `FIELDS`. Raises `InputError` naming `name`."""
    named = {short: long for long, short in TABLE_NAMES.items()}
    if "src_addr" not in schema.names:
        named = {field: field for field in FIELDS}
    found = {
        field: column for field, column in named.items() if schema.get_field_index(column) >= 0
    }
    for field in ("src", "dst"):
        if field not in found:
            raise InputError(
                f"{name}: column {named[field]} is missing: expected {', '.join(named.values())}"
            )
    for field, column in found.items():
        kind = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        expected, fits = _EXPECTED[field]
        if not any(check(kind) for check in fits):
            raise InputError(f"{name}: column {column} has type {kind}, expected {expected}")
    return found


_TEXT = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view]
_NUMBER = [pa.types.is_floating, pa.types.is_integer]
_EXPECTED: dict[str, tuple[str, list[Any]]] = {
    "src": ("text", _TEXT),
    "dst": ("text", _TEXT),
    "rtt_ms": ("a number", [*_NUMBER, pa.types.is_null]),
    "failed": ("true or false", [pa.types.is_boolean]),
    "time": ("a timestamp or a number", [pa.types.is_timestamp, *_NUMBER, pa.types.is_null]),
}


def batch_rows(batch: pa.RecordBatch, names: dict[str, str]) -> Iterator[Given]:
    """Rows of a batch that has the columns `names`, by the names of `FIELDS`; numbered from 1."""
    values = {field: _values(batch.column(column)) for field, column in names.items()}
    of_table = names["src"] in TABLE_NAMES
    for at in range(len(batch)):
        row = {field: column[at] for field, column in values.items()}
        rtt_ms = row.get("rtt_ms")
        if of_table and rtt_ms is not None and rtt_ms < 0:
            row |= {"rtt_ms": None, "failed": True}
        yield Given(at + 1, row)


def _values(column: pa.Array) -> list[Any]:
    """Python values; times in Unix seconds, and text that is no UTF-8 with escapes."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
        return [t if t is None else t // ticks for t in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        packed = column.cast(pa.large_binary()).to_pylist()
        return [
            text if text is None else text[:ADDRESS_BYTES].decode("utf-8", "backslashreplace")
            for text in packed
        ]
    found: list[Any] = column.to_pylist()
    return found
