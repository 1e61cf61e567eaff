"""Pass one of split: validate rows and spill them as runs sorted by (source, time).

A run is one Arrow IPC file that later passes map and slice without copying:

    src, dst              dictionary<uint32, fixed_size_binary[17]>   keys of `pipeline.addresses`, ascending
    time                  int64      microseconds since 1970
    rtt                   double
    msm_id, size, packet_error_count, prb_id, file, row     the narrowest integer type that holds them

`file` is an index into the list of input names, `row` counts from 1 within that file; a missing `prb_id`
is `NO_PROBE`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.addresses import KEY_BYTES, Keys, families, parse_addresses
from pipeline.measurements import SCHEMA
from pipeline.ordering import order_rows
from pipeline.rejects import RejectWriter, as_json
from pipeline.split.parquet_input import read_tables
from stores.files import atomic_path

RUN_ROWS = 1 << 20
NO_PROBE = -1
INTEGERS = ("msm_id", "size", "packet_error_count", "prb_id", "file", "row")
MICROSECONDS = 1_000_000
_YEAR_10000 = 253_402_300_800 * MICROSECONDS


@dataclass(frozen=True)
class Run:
    """A spilled run, mapped into memory."""

    sources: Keys
    destinations: Keys
    src: NDArray[np.uint32]
    dst: NDArray[np.uint32]
    columns: dict[str, NDArray[Any]]  # time, rtt and `INTEGERS`

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """First row of each source, and the number of rows at the end: int64 (sources + 1,)."""
        return np.searchsorted(self.src, np.arange(len(self.sources) + 1, dtype=np.uint32))


def write_runs(
    path: Path,
    name: str,
    row_groups: list[int],
    first_row: int,
    columns: list[str],
    file_names: Path,
    prefix: Path,
    rejects: Path,
) -> dict[str, Any]:
    """A unit: validate some row groups of one Parquet file and write their runs.

    `first_row` is how many rows of the file lie before; `file_names` is a JSON list, the input names that
    `file` indexes. Returns {"runs": [name], "files": {index: {"rows", "rejected": {reason: rows}}}}.
    """
    names: list[str] = json.loads(file_names.read_bytes())
    index_of = {text: i for i, text in enumerate(names)}
    runs: list[str] = []
    rows: Counter[int] = Counter()
    rejected: Counter[tuple[int, str]] = Counter()
    with RejectWriter(rejects) as reject:
        for table in read_tables(path, name, row_groups, columns, RUN_ROWS):
            file, row = _origin(table, index_of, name, first_row)
            first_row += len(table)
            src = _Addresses(table.column("src_addr"))
            dst = _Addresses(table.column("dst_addr"))
            reasons = _reasons(table, src, dst)
            bad = np.flatnonzero(reasons)
            if len(bad):
                words = [REASONS[reason] for reason in reasons[bad].tolist()]
                where = file[bad].tolist()
                records = table.take(bad).select(SCHEMA.names)
                reject.add([names[i] for i in where], row[bad], words, as_json(records))
                rejected.update(zip(where, words, strict=True))
            for index, count in enumerate(np.bincount(file)):
                rows[index] += int(count)
            good = np.flatnonzero(reasons == 0)
            if len(good):
                run = prefix.with_name(f"{prefix.name}-{len(runs):04d}.arrow")
                _write_run(run, table, src, dst, file, row, good)
                runs.append(run.name)
    ledger: dict[int, dict[str, Any]] = {
        index: {"rows": count, "rejected": {}} for index, count in rows.items() if count
    }
    for (index, reason), count in sorted(rejected.items()):
        ledger[index]["rejected"][reason] = count
    return {"runs": runs, "files": {str(index): entry for index, entry in sorted(ledger.items())}}


def open_run(path: Path) -> Run:
    """Map a run. Costs some 0.2 ms; rows are read when they are touched."""
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
        if len(array.dictionary) > len(array):  # it kept what earlier batches used
            array = array.dictionary_decode().dictionary_encode()
        parsed = parse_addresses(array.dictionary.to_pylist())
        self.keys, rank = np.unique(parsed, return_inverse=True)
        indices = _filled(array.indices, 0).to_numpy(zero_copy_only=False)
        self.codes = rank.astype(np.uint32)[indices] if len(rank) else indices.astype(np.uint32)
        self.family = families(self.keys)[self.codes] if len(self.keys) else self.codes.astype("u1")


REASONS = {
    1: "null_msm_id",
    2: "null_event_time",
    3: "null_src_addr",
    4: "null_dst_addr",
    5: "null_ip_version",
    6: "null_rtt",
    7: "null_size",
    8: "null_packet_error_count",
    9: "bad_src_addr",
    10: "bad_dst_addr",
    11: "ip_version_mismatch",
    12: "rtt_not_finite",
    13: "time_before_1970",
    14: "time_after_9999",
}
"""Why split takes a row not. Exact duplicates (`duplicate`) are found later, by `pipeline.split.stage.shards`."""
MEANINGS = {
    **{f"null_{name}": f"{name} is null" for name in SCHEMA.names},
    "bad_src_addr": "src_addr is no IPv4 or IPv6 address",
    "bad_dst_addr": "dst_addr is no IPv4 or IPv6 address",
    "ip_version_mismatch": "ip_version, or one address, is of another family",
    "rtt_not_finite": "rtt is NaN or infinite",
    "time_before_1970": "event_time has no Unix time of 0 or more",
    "time_after_9999": "event_time is past the year 9999",
    "duplicate": "an equal row, or result, came before",
}
_CODE = {word: code for code, word in REASONS.items()}


def _reasons(table: pa.Table, src: _Addresses, dst: _Addresses) -> NDArray[np.uint8]:
    """Code of the first thing wrong with each row, 0 for none: uint8 (rows,)."""
    reasons = np.zeros(len(table), np.uint8)

    def mark(wrong: NDArray[np.bool_], word: str) -> None:
        reasons[wrong & (reasons == 0)] = _CODE[word]

    for code in range(1, 9):
        column = table.column(REASONS[code].removeprefix("null_"))
        if column.null_count:
            mark(column.is_null().to_numpy(), REASONS[code])
    mark(src.family == 0, "bad_src_addr")
    mark(dst.family == 0, "bad_dst_addr")
    version = _integers(table, "ip_version")
    mark((src.family != version) | (dst.family != version), "ip_version_mismatch")
    mark(~np.isfinite(_floats(table, "rtt")), "rtt_not_finite")
    time = _integers(table, "event_time")
    mark(time < 0, "time_before_1970")
    mark(time >= _YEAR_10000, "time_after_9999")
    return reasons


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
    """Input file index and row number of each row, in the user's own files."""
    if "source_file" not in table.column_names or "source_row" not in table.column_names:
        file = np.full(len(table), index_of[name])
        return file, np.arange(first_row + 1, first_row + 1 + len(table))
    array = table.column("source_file").chunk(0)
    index = np.array([index_of.get(text, index_of[name]) for text in array.dictionary.to_pylist()])
    return index[array.indices.to_numpy()], _integers(table, "source_row")


def _probes(table: pa.Table) -> NDArray[np.int64]:
    if "prb_id" not in table.column_names:
        return np.full(len(table), NO_PROBE)
    return _filled(table.column("prb_id").chunk(0), NO_PROBE).to_numpy()


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return _filled(table.column(name).chunk(0).cast(pa.int64()), 0).to_numpy()


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    return _filled(table.column(name).chunk(0), np.nan).to_numpy()


def _filled(array: pa.Array, value: float) -> pa.Array:
    """`array` without nulls; not copied where it has none."""
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
