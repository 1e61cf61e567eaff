"""The user's canonical Parquet files: their schema is checked, and they are read as tables of one form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.hashed_file import Blocks, HashedFile, open_hashed
from pipeline.inputs import RemoteInput
from pipeline.measurements import ORIGIN, PRB_ID, SCHEMA, SIMULATED
from stores.errors import InputError
from stores.measurements.parquet_file import (
    ADDRESS_BYTES,
    check_text,
    open_parquet,
    reading,
    row_groups,
)

_MAX_TIME = 1 << 62  # microseconds: the year 148,108, which can still be written as a date
_TEXT_BYTES = {"src_addr": ADDRESS_BYTES, "dst_addr": ADDRESS_BYTES, "source_file": 4096}
"""How long text may be on average, and how much of it is kept. A path has at most 4,096 characters."""
MAX_INTEGER = (1 << 63) - 1


@dataclass(frozen=True)
class ParquetSummary:
    """What the footer of a file says, and the file's size and the blocks in which that was read."""

    size: int
    blocks: Blocks
    rows: int
    row_groups: list[int]  # rows of each
    columns: list[str]  # those of the canonical table, then the optional ones present
    simulated: bool  # marked as rows that `simulate` made up


def inspect_parquet(place: Path | RemoteInput, name: str) -> ParquetSummary:
    """Read the footer and check the schema against `pipeline.measurements.SCHEMA`.

    Raises `InputError` naming the file, the column, and the type expected and found.
    """
    where = place.path if isinstance(place, RemoteInput) else place
    with reading(where, name), open_hashed(place) as source, open_parquet(source) as file:
        schema = file.schema_arrow
        metadata = row_groups(file, source)
        simulated = SIMULATED in (file.metadata.metadata or {})
    groups = [group.num_rows for group in metadata]
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
    for group in metadata:
        check_text(group, name, _TEXT_BYTES)
    return ParquetSummary(source.size, source.blocks, sum(groups), groups, columns, simulated)


def read_tables(
    source: HashedFile, name: str, row_groups: list[int], columns: list[str], rows: int
) -> Iterator[pa.Table]:
    """Yield tables of about `rows` rows from some row groups, in order, with canonical types.

    Addresses come as dictionary<int32, string> with one dictionary per table, times as microseconds in UTC,
    numbers as int64 and float64. A time or integer too large for that is held at the largest that fits, so
    that it can be rejected. Row groups are streamed, however large, and never held whole.
    """
    with reading(source.path, name):
        as_dictionary = [column for column in columns if column in _TEXT_BYTES]
        with open_parquet(source, as_dictionary) as file:
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
        if name in _TEXT_BYTES:
            dictionary = pa.dictionary(pa.int32(), pa.string())
            if not pa.types.is_dictionary(column.type):
                column = column.dictionary_encode()
            column = column.cast(dictionary).unify_dictionaries().combine_chunks()
            columns[name] = _readable(column, _TEXT_BYTES[name])
            continue
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_timestamp(column.type):
            column = _microseconds(column).cast(types[name])
        elif column.type == pa.uint64():
            column = _held_between(column, 0, MAX_INTEGER).cast(types[name])
        else:
            column = column.cast(types[name])
        columns[name] = column.combine_chunks()
    return pa.table(columns)


def _readable(column: pa.DictionaryArray, longest: int) -> pa.DictionaryArray:
    """Text cut after so many characters, for what is longer is no address, and the record of each row that is
    rejected would repeat it; bytes that are no UTF-8 as \\xff."""
    try:
        text = pc.utf8_slice_codeunits(column.dictionary, 0, longest)
    except pa.ArrowInvalid:
        values = column.dictionary.cast(pa.binary()).to_pylist()
        text = pa.array([value[:longest].decode("utf-8", "backslashreplace") for value in values])
    return pa.DictionaryArray.from_arrays(column.indices, text)


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times of any unit as timestamp[us] without zone, which is UTC: finer ones are floored, and those
    further from 1970 than `_MAX_TIME` are held there, where a cast would wrap them to another time."""
    ticks, factor = column.cast(pa.int64()), 1000 if column.type.unit == "ms" else 1
    if column.type.unit == "ns":
        cut = pc.divide(ticks, 1000)  # towards zero
        ticks = pc.subtract(cut, pc.greater(pc.multiply(cut, 1000), ticks).cast(pa.int64()))
    limit = _MAX_TIME // factor
    held = _held_between(ticks, -limit, limit)
    return (pc.multiply(held, factor) if factor > 1 else held).cast(pa.timestamp("us"))


def _held_between(column: pa.ChunkedArray, low: int, high: int) -> pa.ChunkedArray:
    """Integers with those below `low` or above `high` set to it; nulls stay."""
    found = pc.min_max(column).as_py()
    if found["min"] is None or low <= found["min"] <= found["max"] <= high:
        return column  # as almost always
    low, high = (pa.scalar(bound, column.type) for bound in (low, high))
    raised = pc.max_element_wise(column, low, skip_nulls=False)
    return pc.min_element_wise(raised, high, skip_nulls=False)
