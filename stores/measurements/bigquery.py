"""RIPE's BigQuery table of pings, exported as Parquet: its rows are RIPE Atlas results under other names.

    msm_id, prb_id                   integers
    start_time                       timestamp
    src_addr, dst_addr, synth_addr   text, or bytes (4 or 16 of them); the last is what JSON has as `from`
    pings                            array of structs, of which `rtt` and `dup` count: one for each packet
    af, size, packets_sent, packets_received        integers, optional
    avg, min                         ms, optional: what a result without packets is known by

Instead of an address, the table may have its column of bytes (`src_addr_bytes`, …). Other columns are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stores.errors import InputError, PinglmError
from stores.measurements.atlas_result import Packet, Result
from stores.measurements.parquet_file import (
    ADDRESS_BYTES,
    check_text,
    open_parquet,
    reading,
    row_groups,
)

ROWS_AT_ONCE = 1 << 12
MOST_PACKETS = 1 << 12
"""Packets of a result: Atlas sends at most 16. A row with more is `bad_result`."""
_PACKETS_PER_ROW, _PACKET_SLACK = 16, 1 << 16  # on average, before a row group is refused

_ADDRESSES = {"from_": "synth_addr", "src_addr": "src_addr", "dst_addr": "dst_addr"}
_INTEGERS = {"msm_id": "msm_id", "prb_id": "prb_id", "af": "af", "size": "size"} | {
    "sent": "packets_sent",
    "rcvd": "packets_received",
}
_NUMBERS = {"avg": "avg", "min": "min"}
_REQUIRED = ("msm_id", "prb_id", "start_time", "dst_addr", "pings")
_TICKS = {"ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class ResultBatch:
    """Some rows of the table."""

    results: list[Result | str]
    """Of each row, or the key of `measurements.atlas_result.REASONS` by which it is none."""
    columns: pa.RecordBatch

    def record(self, at: int) -> dict[str, Any]:
        """Row `at` as the file has it, JSON-able."""
        row = self.columns.slice(at, 1)
        return {name: _plain(_value(row.column(name))) for name in row.schema.names}


def is_bigquery(names: Iterable[str]) -> bool:
    """Whether a table with these columns is one of RIPE's pings (or wants to be)."""
    return {"start_time", "pings"} <= set(names)


def holds_results(source: Any) -> bool:
    """Whether a Parquet file, a path or an open binary file, has the columns of RIPE's table. False where that
    cannot be seen. Errors of the open file itself, such as `RemoteError`, are raised on."""
    try:
        return is_bigquery(pq.read_schema(source).names)
    except PinglmError:  # some are `OSError`s
        raise
    except (OSError, pa.ArrowException):
        return False


def read_results(source: Any, path: str, name: str) -> Iterator[ResultBatch]:
    """Yield all rows of a binary file that holds the table, a few thousand at a time, in order.

    Raises `InputError` naming the file, and the column that is missing, of another type, or too large.
    """
    with reading(path, name), open_parquet(source) as file:
        names = _columns(file.schema_arrow, name)
        leaves = []
        for group in row_groups(file, source):
            check_text(group, name, {names[k]: ADDRESS_BYTES for k in _ADDRESSES if k in names})
            leaves = _check_packets(group, name)
        wanted = [column for key, column in names.items() if key != "pings"]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted + leaves, use_threads=False):
            yield ResultBatch(list(_results(batch, names)), batch)


def _columns(schema: pa.Schema, name: str) -> dict[str, str]:
    """The columns to read, by what they are for: the fields of `Result`, "start_time" and "pings"."""
    found: dict[str, str] = {}
    for key, column in (_ADDRESSES | _INTEGERS | _NUMBERS).items():
        choices = [column, f"{column}_bytes"] if key in _ADDRESSES else [column]
        present = [each for each in choices if schema.get_field_index(each) >= 0]
        if present:
            found[key] = present[0]
    found |= {column: column for column in ("start_time", "pings") if column in schema.names}
    for key in _REQUIRED:
        if key not in found:
            raise InputError(
                f"{name}: column {key} is missing: expected RIPE's BigQuery table of pings with "
                f"{', '.join((*_REQUIRED, 'src_addr', 'synth_addr'))}"
            )
    for key, column in found.items():
        kind = schema.field(column).type
        expected, fits = _expected(key)
        if not any(check(kind) for check in fits):
            raise InputError(f"{name}: column {column} has type {kind}, expected {expected}")
    return found


def _expected(key: str) -> tuple[str, list[Any]]:
    """What a column must be, in words and as checks of which one must hold."""
    kinds = pa.types
    if key in _ADDRESSES:
        text = [kinds.is_string, kinds.is_large_string, kinds.is_string_view]
        packed = [kinds.is_binary, kinds.is_large_binary, kinds.is_fixed_size_binary]
        return "text or bytes", [*text, *packed]
    if key in _INTEGERS:
        return "an integer", [kinds.is_integer]
    if key in _NUMBERS:
        return "a number", [kinds.is_floating, kinds.is_integer]
    if key == "start_time":
        return "a timestamp", [kinds.is_timestamp]
    return "an array of structs with rtt", [_is_packets]


def _is_packets(kind: pa.DataType) -> bool:
    """Whether a type is an array of structs that have rtt, plain or as BigQuery nests it."""
    if pa.types.is_struct(kind) and kind.num_fields == 1:
        kind = kind.field(0).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    packet = _unwrapped(kind.value_type)
    if not pa.types.is_struct(packet):
        return False
    rtt, dup = (packet.get_field_index(name) for name in ("rtt", "dup"))
    if dup >= 0 and not _is_count(packet.field(dup).type):
        return False
    return rtt >= 0 and bool(pa.types.is_floating(packet.field(rtt).type))


def _is_count(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _unwrapped(kind: pa.DataType) -> pa.DataType:
    """The type of an element: BigQuery wraps it in a struct of one field, `element` or `item`."""
    if pa.types.is_struct(kind) and kind.num_fields == 1:
        inner = kind.field(0).type
        return inner if pa.types.is_struct(inner) else kind
    return kind


def _check_packets(group: pq.RowGroupMetaData, name: str) -> list[str]:
    """Paths of what is read of `pings`. Raises `InputError` if they hold far more than results can."""
    leaves = []
    for column in map(group.column, range(group.num_columns)):
        path = column.path_in_schema
        if not path.startswith("pings.") or path.rpartition(".")[2] not in ("rtt", "dup"):
            continue
        if column.num_values > _PACKETS_PER_ROW * group.num_rows + _PACKET_SLACK:
            raise InputError(
                f"{name}: column pings has {column.num_values:,} packets for {group.num_rows:,} rows, expected "
                f"at most {_PACKETS_PER_ROW} a row on average: too many for results of pings"
            )
        leaves.append(path)
    return leaves


def _results(batch: pa.RecordBatch, names: dict[str, str]) -> Iterator[Result | str]:
    columns = {key: batch.column(column) for key, column in names.items()}
    start_time = columns.pop("start_time")
    ticks = _TICKS[start_time.type.unit]
    fields: dict[str, list[Any]] = {
        "timestamp": [
            t if t is None else t // ticks for t in start_time.cast(pa.int64()).to_pylist()
        ]
    }
    packets = _packets(columns.pop("pings"))
    for key, column in columns.items():
        fields[key] = _addresses(column) if key in _ADDRESSES else column.to_pylist()
    for result, *values in zip(packets, *fields.values(), strict=True):
        if isinstance(result, str):
            yield result
        else:
            yield Result("ping", result=result, **dict(zip(fields, values, strict=True)))


def _addresses(column: pa.Array) -> list[str | None]:
    """Addresses as text; `None` for bytes that are none."""
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [
            value if value is None else value[:ADDRESS_BYTES].decode("utf-8", "backslashreplace")
            for value in column.cast(pa.large_binary()).to_pylist()
        ]
    return [
        str(ip_address(value)) if value is not None and len(value) in (4, 16) else None
        for value in column.to_pylist()
    ]


def _packets(column: pa.Array) -> Iterator[list[Packet] | str | None]:
    """The packets of each row; `None` for a row without."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, 0)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
    if max(lengths, default=0) > MOST_PACKETS:
        taken = pa.array([length <= MOST_PACKETS for length in lengths])
        column = pc.if_else(taken, column, pa.scalar(None, column.type))
    packets = column.flatten()
    if _unwrapped(packets.type) != packets.type:
        packets = pc.struct_field(packets, 0)
    rtts = pc.struct_field(packets, "rtt").to_pylist()
    has_dup = packets.type.get_field_index("dup") >= 0
    dups = pc.struct_field(packets, "dup").to_pylist() if has_dup else [None] * len(rtts)
    end = 0
    for length in lengths:
        if length > MOST_PACKETS:
            yield "bad_result"
            continue
        start, end = end, end + length
        own = [Packet(*pair) for pair in zip(rtts[start:end], dups[start:end], strict=True)]
        yield own or None


def _value(column: pa.Array) -> Any:
    """The value of a column of one row."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _addresses(column)[0]
    try:
        return column[0].as_py()
    except (
        ValueError,
        OverflowError,
    ):  # a time that Python cannot hold: finer, or after the year 9999
        return column.cast(pa.int64())[0].as_py()


def _plain(value: Any) -> Any:
    """A value of a row as JSON can hold it: long arrays cut, bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return value[:ADDRESS_BYTES].hex()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value[:MOST_PACKETS]]
    return value if value is None or isinstance(value, int | float) else str(value)
