"""Arrow tables that come from Python, and go back: of PyArrow, of Polars, and in Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import InputError
from stores.measurements.given import Given
from stores.measurements.table_rows import batch_rows, columns_of

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}


def rows_of_table(table: Any) -> Iterator[Given]:
    """Rows of a table of PyArrow or Polars, numbered from 1. Raises `InputError` naming a column that is missing or
    of another type, or for something that is no table."""
    if not hasattr(table, "__arrow_c_stream__"):
        raise InputError(f"table: found {type(table).__name__}, expected a PyArrow or Polars table")
    arrow = pa.table(table)
    names = columns_of(arrow.schema, "table")
    row = 0
    for batch in arrow.select(list(names.values())).to_batches(max_chunksize=1 << 12):
        for given in batch_rows(batch, names):
            row += 1
            yield given._replace(row=row)


def table_like(given: Any, rows: Sequence[Mapping[str, Any]], types: Mapping[str, type]) -> Any:
    """The rows as a table of Polars if that is what was `given`, else of PyArrow."""
    arrow = table_of(rows, types)
    if type(given).__module__.partition(".")[0] == "polars":
        return type(given)(arrow)
    return arrow


def table_of(rows: Sequence[Mapping[str, Any]], types: Mapping[str, type]) -> pa.Table:
    """The rows as a table whose columns are those of `types`: str, int or float."""
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in types.items()])
    columns = {name: [row[name] for row in rows] for name in types}
    return pa.table(columns, schema=schema)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, type]) -> None:
    """Write the rows to a Parquet file."""
    pq.write_table(table_of(rows, types), path, compression="zstd")


def join_tables(path: Path, parts: Iterable[Path]) -> None:
    """Write the rows of Parquet files of one schema, in order, to one of them: a row group each."""
    writer = None
    for part in parts:
        table = pq.read_table(part)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()
