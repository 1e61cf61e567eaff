"""First pass of split: validate rows and spill them to disk as runs sorted by (source, time).

A run is one Arrow IPC file, which later passes map into memory and slice without copying:

    src, dst              dictionary<uint32, fixed_size_binary[17]>   keys of `pipeline.addresses`, ascending
    time                  int64      microseconds since 1970
    rtt                   double
    msm_id, size, packet_error_count, prb_id, file, row     the narrowest integer type that fits

`file` is an index into the list of input names; `row` counts from 1 within that file; a missing `prb_id`
is stored as `NO_PROBE`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.addresses import KEY_BYTES, Keys, families, parse_addresses
from pipeline.hashed_file import open_hashed
from pipeline.inputs import RemoteInput
from pipeline.measurements import SCHEMA
from pipeline.ordering import order_rows
from pipeline.rejects import RejectWriter, as_json
from pipeline.split.parquet_input import MAX_INTEGER, read_tables
from stores.files import atomic_path

RUN_ROWS = 1 << 20
NO_PROBE = -1
INTEGERS = ("msm_id", "size", "packet_error_count", "prb_id", "file", "row")
MICROSECONDS = 1_000_000
_YEAR_10000 = 253_402_300_800 * MICROSECONDS
_UNKNOWN = -1  # in place of the index of an input file


@dataclass(frozen=True)
class Run:
    """A spilled run, mapped into memory."""

    sources: Keys
    destinations: Keys
    src: NDArray[np.uint32]
    dst: NDArray[np.uint32]
    columns: dict[str, NDArray[Any]]  # time, rtt and `INTEGERS`


def write_runs(
    place: Path | RemoteInput,
    name: str,
    row_groups: list[int],
    first_row: int,
    columns: list[str],
    file_names: Path,
    prefix: Path,
    rejects: Path,
) -> dict[str, Any]:
    """A unit: validate some row groups of one Parquet file and write their runs.

    `first_row` is the number of rows of the file before these groups; `file_names` is a JSON file with
    the list of input names that `file` indexes. Returns {"runs": [name], "files": {index: {"rows",
    "rejected": {reason: rows}}}, "blocks": what it read of the file, as in `pipeline.hashed_file`}.
    """
    names: list[str] = json.loads(file_names.read_bytes())
    index_of = {text: i for i, text in enumerate(names)}
    runs: list[str] = []
    rows: Counter[int] = Counter()
    rejected: Counter[tuple[int, str]] = Counter()
    with RejectWriter(rejects) as reject, open_hashed(place) as source:
        for table in read_tables(source, name, row_groups, columns, RUN_ROWS):
            file, row = _origin(table, index_of, name, first_row)
            first_row += len(table)
            src = _Addresses(table.column("src_addr"))
            dst = _Addresses(table.column("dst_addr"))
            codes = _find_reasons(table, src, dst)
            bad = np.flatnonzero(codes != _GOOD)
            if len(bad):
                words = [_REASONS[code].value for code in codes[bad].tolist()]
                where = file[bad].tolist()
                records = table.take(bad).select(SCHEMA.names)
                reject.add([names[i] for i in where], row[bad], words, as_json(records))
                rejected.update(zip(where, words, strict=True))
            for index, count in enumerate(np.bincount(file)):
                rows[index] += int(count)
            good = np.flatnonzero(codes == _GOOD)
            if len(good):
                run = prefix.with_name(f"{prefix.name}-{len(runs):04d}.arrow")
                _write_run(run, table, src, dst, file, row, good)
                runs.append(run.name)
    ledger: dict[int, dict[str, Any]] = {
        index: {"rows": count, "rejected": {}} for index, count in rows.items() if count
    }
    for (index, reason), count in sorted(rejected.items()):
        ledger[index]["rejected"][reason] = count
    return {
        "runs": runs,
        "files": {str(index): entry for index, entry in sorted(ledger.items())},
        "blocks": {str(number): digest for number, digest in source.blocks.items()},
    }


def open_run(path: Path) -> Run:
    """Map a run into memory. Takes about 0.2 ms; rows are read from disk when first used."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        batch = file.get_batch(0)
    src, dst = batch.column("src"), batch.column("dst")
    return Run(
        _key_array(src.dictionary),
        _key_array(dst.dictionary),
        src.indices.to_numpy(),
        dst.indices.to_numpy(),
        {name: batch.column(name).to_numpy() for name in ("time", "rtt", *INTEGERS)},
    )


class _Addresses:
    """An address column: row i holds `keys[codes[i]]`; keys are distinct and ascending."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.chunk(0)
        if len(array.dictionary) > len(array):  # it still holds what earlier batches used
            array = array.dictionary_decode().dictionary_encode()
        parsed = parse_addresses(array.dictionary.to_pylist())
        self.keys, rank = np.unique(parsed, return_inverse=True)
        indices = _filled(array.indices, 0).to_numpy(zero_copy_only=False)
        self.codes = rank.astype(np.uint32)[indices] if len(rank) else indices.astype(np.uint32)
        self.family = families(self.keys)[self.codes] if len(self.keys) else self.codes.astype("u1")


class Reason(StrEnum):
    """Why split rejects a row. The first reason that applies counts, in this order."""

    NULL_MSM_ID = "null_msm_id"
    NULL_EVENT_TIME = "null_event_time"
    NULL_SRC_ADDR = "null_src_addr"
    NULL_DST_ADDR = "null_dst_addr"
    NULL_IP_VERSION = "null_ip_version"
    NULL_RTT = "null_rtt"
    NULL_SIZE = "null_size"
    NULL_PACKET_ERROR_COUNT = "null_packet_error_count"
    BAD_SRC_ADDR = "bad_src_addr"
    BAD_DST_ADDR = "bad_dst_addr"
    IP_VERSION_MISMATCH = "ip_version_mismatch"
    RTT_NOT_FINITE = "rtt_not_finite"
    INTEGER_TOO_LARGE = "integer_too_large"
    TIME_BEFORE_1970 = "time_before_1970"
    TIME_AFTER_9999 = "time_after_9999"
    DUPLICATE = "duplicate"  # found later, by `pipeline.split.shards`


_REASON_OF_NULL = {
    "msm_id": Reason.NULL_MSM_ID,
    "event_time": Reason.NULL_EVENT_TIME,
    "src_addr": Reason.NULL_SRC_ADDR,
    "dst_addr": Reason.NULL_DST_ADDR,
    "ip_version": Reason.NULL_IP_VERSION,
    "rtt": Reason.NULL_RTT,
    "size": Reason.NULL_SIZE,
    "packet_error_count": Reason.NULL_PACKET_ERROR_COUNT,
}
"""By column of `pipeline.measurements.SCHEMA`; none of them may be null."""

MEANINGS: dict[str, str] = {
    **{reason: f"{column} is null" for column, reason in _REASON_OF_NULL.items()},
    Reason.BAD_SRC_ADDR: "src_addr is not an IPv4 or IPv6 address",
    Reason.BAD_DST_ADDR: "dst_addr is not an IPv4 or IPv6 address",
    Reason.IP_VERSION_MISMATCH: "ip_version, or one address, is of another family",
    Reason.RTT_NOT_FINITE: "rtt is NaN or infinite",
    Reason.INTEGER_TOO_LARGE: "msm_id, size, packet_error_count or prb_id is 2^63 - 1 or more",
    Reason.TIME_BEFORE_1970: "event_time has no Unix time of 0 or more",
    Reason.TIME_AFTER_9999: "event_time is past the year 9999",
    Reason.DUPLICATE: "an equal row, or result, came before",
}
"""What each reason means, for people."""

_REASONS = tuple(Reason)  # row i of a table has reason `_REASONS[codes[i]]`, or none at `_GOOD`
_CODES = {reason: code for code, reason in enumerate(_REASONS)}
_GOOD = len(_REASONS)


def _find_reasons(table: pa.Table, src: _Addresses, dst: _Addresses) -> NDArray[np.uint8]:
    """Index into `_REASONS` of the first thing wrong with each row, else `_GOOD`: uint8 (rows,)."""
    codes = np.full(len(table), _GOOD, np.uint8)

    def mark(wrong: NDArray[np.bool_], reason: Reason) -> None:
        if wrong.any():
            codes[wrong & (codes == _GOOD)] = _CODES[reason]

    for name, reason in _REASON_OF_NULL.items():
        column = table.column(name)
        if column.null_count:
            mark(column.is_null().to_numpy(), reason)
    mark(src.family == 0, Reason.BAD_SRC_ADDR)
    mark(dst.family == 0, Reason.BAD_DST_ADDR)
    version = _integers(table, "ip_version")
    mark((src.family != version) | (dst.family != version), Reason.IP_VERSION_MISMATCH)
    mark(~np.isfinite(_floats(table, "rtt")), Reason.RTT_NOT_FINITE)
    for name in INTEGERS[:3]:
        mark(_integers(table, name) == MAX_INTEGER, Reason.INTEGER_TOO_LARGE)
    mark(_probes(table) == MAX_INTEGER, Reason.INTEGER_TOO_LARGE)
    time = _integers(table, "event_time")
    mark(time < 0, Reason.TIME_BEFORE_1970)
    mark(time >= _YEAR_10000, Reason.TIME_AFTER_9999)
    return codes


def _write_run(
    path: Path,
    table: pa.Table,
    src: _Addresses,
    dst: _Addresses,
    file: NDArray[np.int64],
    row: NDArray[np.int64],
    good: NDArray[np.int64],
) -> None:
    time = _integers(table, "event_time")
    if len(good) < len(table):
        order = good[order_rows(src.codes[good], time[good], len(src.keys))]
    else:
        order = order_rows(src.codes, time, len(src.keys))
    arrays = {
        "src": pa.DictionaryArray.from_arrays(src.codes[order], _binary(src.keys)),
        "dst": pa.DictionaryArray.from_arrays(dst.codes[order], _binary(dst.keys)),
        "time": pa.array(time[order]),
        "rtt": pa.array(_floats(table, "rtt")[order]),
        **{name: _narrow(_integers(table, name), order) for name in INTEGERS[:3]},
        "prb_id": _narrow(_probes(table), order),
        "file": _narrow(file, order),
        "row": _narrow(row, order),
    }
    batch = pa.record_batch(arrays)
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), batch.schema) as writer:
        writer.write_batch(batch)


def _origin(
    table: pa.Table, index_of: dict[str, int], name: str, first_row: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the input file, and row number in it, of each row: int64 (rows,) each.

    A row that does not say where `ingest` found it, or names a file that is no input of this folder, comes
    from file `name`, of which `first_row` rows came before the table.
    """
    here = np.arange(first_row + 1, first_row + 1 + len(table))
    if "source_file" not in table.column_names or "source_row" not in table.column_names:
        return np.full(len(table), index_of[name]), here
    column = table.column("source_file").chunk(0)
    known = [index_of.get(text, _UNKNOWN) for text in column.dictionary.to_pylist()]
    file = np.array([*known, _UNKNOWN])[_filled(column.indices, len(known)).to_numpy()]
    row = _integers(table, "source_row")
    unknown = (file == _UNKNOWN) | (row < 1)
    return np.where(unknown, index_of[name], file), np.where(unknown, here, row)


def _probes(table: pa.Table) -> NDArray[np.int64]:
    if "prb_id" not in table.column_names:
        return np.full(len(table), NO_PROBE)
    probes: NDArray[np.int64] = _filled(table.column("prb_id").chunk(0), NO_PROBE).to_numpy()
    return probes


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = _filled(table.column(name).chunk(0).cast(pa.int64()), 0).to_numpy()
    return values


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = _filled(table.column(name).chunk(0), np.nan).to_numpy()
    return values


def _filled(array: pa.Array, value: float) -> pa.Array:
    """`array` with `value` in place of nulls; not copied if it has none."""
    return array.fill_null(value) if array.null_count else array


def _narrow(values: NDArray[np.int64], order: NDArray[np.int64]) -> pa.Array:
    """`values[order]` in the narrowest signed integer type that holds all of them."""
    low, high = int(values.min()), int(values.max())
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return pa.array(values.astype(dtype)[order])
    return pa.array(values[order])


def _binary(keys: Keys) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(keys).tobytes())
    return pa.Array.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, data])


def _key_array(array: pa.Array) -> Keys:
    return np.frombuffer(array.buffers()[1], f"S{KEY_BYTES}", len(array))
