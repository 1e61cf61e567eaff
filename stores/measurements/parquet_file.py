"""What all readers of the user's Parquet files share: they are opened to be streamed, and text without bounds is
refused before it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import InputError, PinglmError
from stores.measurements.parquet_footer import has_encrypted_column

ADDRESS_BYTES = 256
"""How long an address may be on average, and how much of it is kept: it has at most 45 characters, and a name
that a row is rejected for 255."""
_TEXT_SLACK = 1 << 20
_BUFFER = 1 << 20


@contextmanager
def reading(path: str | Path, name: str) -> Iterator[None]:
    """Turn errors of PyArrow into an `InputError` that names the file."""
    try:
        yield
    except PinglmError:
        raise
    except (pa.ArrowException, OSError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: cannot be read as Parquet ({path}): {text}") from error


def open_parquet(source: Any, as_dictionary: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a binary file (an object with `read`, `seek` and `tell`), the text columns named as dictionaries."""
    return pq.ParquetFile(
        pa.PythonFile(source, mode="r"),
        read_dictionary=list(as_dictionary),
        buffer_size=_BUFFER,  # or it would hold a row group's bytes, however many
        coerce_int96_timestamp_unit="us",  # nanoseconds reach no further than the year 2262
    )


def row_groups(file: pq.ParquetFile, source: Any) -> list[pq.RowGroupMetaData]:
    """What the footer says of each row group of `source`, which was opened as `file`. What `reading` turns into an
    `InputError` is raised for an encrypted column. Takes some 20 µs for each column of a row group."""
    if has_encrypted_column(source):
        raise pa.ArrowInvalid("it has an encrypted column, expected plain ones")
    return [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]


def check_text(group: pq.RowGroupMetaData, name: str, longest: Mapping[str, int]) -> None:
    """Raise `InputError` if text in a row group would take far more memory than the `longest` bytes by column."""
    for column in map(group.column, range(group.num_columns)):
        limit = longest.get(column.path_in_schema)
        if limit is None:
            continue
        size = column.total_uncompressed_size
        if size > limit * column.num_values + _TEXT_SLACK:
            raise InputError(
                f"{name}: column {column.path_in_schema} has {size:,} bytes for {column.num_values:,} rows, "
                f"expected at most {limit} a row: its text is too long for a measurement table"
            )
