"""Pass two of split: gather a shard's rows from the runs, sort them, drop exact duplicates, write Parquet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.addresses import Keys, families, format_addresses, hash_keys, merge_keys
from pipeline.measurements import PRB_ID, SCHEMA
from pipeline.ordering import distinct_codes, order_rows, sort_ties
from pipeline.records import Record, to_json
from pipeline.rejects import RejectWriter, as_json
from pipeline.split.duplicates import mark_duplicates
from pipeline.split.plan import Cut
from pipeline.split.ranges import Range
from pipeline.split.runs import INTEGERS, NO_PROBE, Run
from stores.files import atomic_path, start_writeback, write_arrays
from stores.hashing import fold

_CONTENT = (
    "msm_id",
    "size",
    "packet_error_count",
    "prb_id",
)  # with dst and rtt, everything in a row
_DICTIONARY = ["src_addr", "dst_addr", "msm_id", "ip_version", "size", "packet_error_count"]


class ShardPart(Record, frozen=True):
    """Rows of one input file in a shard, and how many more were duplicates."""

    rows: int
    duplicate: int


class WrittenShard(Record, frozen=True):
    """What `write_shard` returns: size in bytes, first and last time in microseconds since 1970, and
    counts by index of input file."""

    rows: int
    size: int
    time: tuple[int, int] | None
    files: dict[int, ShardPart]


def write_shard(
    runs: Path,
    range_: Range,
    cut: Cut,
    split: str,
    with_probes: bool,
    file_names: Path,
    shard: Path,
    distinct: Path,
    rejects: Path,
) -> dict[str, Any]:
    """A unit: write one shard, the hashes of what is distinct in it, and its duplicates as rejects.

    Returns a `WrittenShard` as JSON.
    """
    rows = _gather(runs, range_, cut, split)
    order = order_rows(rows.src, rows.time, len(rows.sources))
    content = rows.content()
    sort_ties(order, rows.src, rows.time, content)
    duplicate = mark_duplicates(order, rows.src, rows.time, content, len(content) - 2)
    kept, dropped = order[~duplicate], order[duplicate]

    with atomic_path(shard) as temporary:
        pq.write_table(
            rows.table(kept, with_probes),
            temporary,
            compression="zstd",
            compression_level=1,
            use_dictionary=[*_DICTIONARY, *(["prb_id"] if with_probes else [])],
            column_encoding={"event_time": "DELTA_BINARY_PACKED"},
            row_group_size=1 << 20,
            write_batch_size=1 << 16,  # the same bytes for a twentieth less than in the usual 1,024
            store_schema=False,  # plain strings and UTC times for every reader
            write_statistics=["src_addr", "event_time", "rtt"],
        )
    start_writeback(shard)
    with RejectWriter(rejects) as reject:
        if len(dropped):
            names = json.loads(file_names.read_bytes())
            files = [names[i] for i in rows.integers["file"][dropped].tolist()]
            records = as_json(rows.table(dropped, with_probes))
            numbers = rows.integers["row"][dropped]
            reject.add(files, numbers, ["duplicate"] * len(dropped), records)
    write_arrays(distinct, rows.distinct(kept))
    accepted = np.bincount(rows.integers["file"][kept])
    duplicates = np.bincount(rows.integers["file"][dropped], minlength=len(accepted))
    accepted = np.pad(accepted, (0, len(duplicates) - len(accepted)))
    written = WrittenShard(
        rows=len(kept),
        size=shard.stat().st_size,
        time=(int(rows.time[kept].min()), int(rows.time[kept].max())) if len(kept) else None,
        files={
            int(i): ShardPart(int(accepted[i]), int(duplicates[i]))
            for i in np.flatnonzero(accepted + duplicates)
        },
    )
    return to_json(written)


@dataclass(frozen=True)
class _Rows:
    """Rows of one shard in any order; `src` and `dst` index sorted, distinct keys."""

    sources: Keys
    destinations: Keys
    src: NDArray[np.uint32]
    dst: NDArray[np.uint32]
    time: NDArray[np.int64]
    rtt: NDArray[np.float64]
    integers: dict[str, NDArray[np.int64]]

    def content(self) -> tuple[NDArray[np.int64], ...]:
        """What orders rows of the same source and time: everything in a row, then where it came from."""
        return (
            self.dst.astype(np.int64),
            self.rtt.view(np.int64),
            *(self.integers[name] for name in (*_CONTENT, "file", "row")),
        )

    def table(self, rows: NDArray[np.int64], with_probes: bool) -> pa.Table:
        """Canonical table of some rows, addresses dictionary-encoded."""
        version = families(self.sources).astype(np.int64)
        columns: dict[str, Any] = {
            "msm_id": self.integers["msm_id"][rows],
            "event_time": pa.array(self.time[rows]).cast(SCHEMA.field("event_time").type),
            "src_addr": _text(self.src[rows], self.sources),
            "dst_addr": _text(self.dst[rows], self.destinations),
            "ip_version": version[self.src[rows]],
            "rtt": self.rtt[rows],
            "size": self.integers["size"][rows],
            "packet_error_count": self.integers["packet_error_count"][rows],
        }
        if with_probes:
            probes = self.integers["prb_id"][rows]
            columns["prb_id"] = pa.array(probes, PRB_ID.type, mask=probes == NO_PROBE)
        return pa.table(columns)

    def distinct(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Sorted hashes of the distinct sources, destinations and pairs of some rows."""
        src, dst = self.src[rows], self.dst[rows]
        sources, destinations = hash_keys(self.sources), hash_keys(self.destinations)
        pairs = np.sort(src.astype(np.uint64) << np.uint64(32) | dst)
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])] if len(pairs) else pairs
        return {
            "sources": np.sort(sources[np.bincount(src, minlength=len(sources)) > 0]),
            "destinations": np.sort(
                destinations[np.bincount(dst, minlength=len(destinations)) > 0]
            ),
            "pairs": np.sort(
                fold(sources[pairs >> np.uint64(32)], destinations[pairs & np.uint64(2**32 - 1)])
            ),
        }


def _gather(runs: Path, range_: Range, cut: Cut, split: str) -> _Rows:
    parts = [_take(*part, cut, split) for part in range_.slices(runs)]
    sources, src = _merge_keys([(p.sources, p.src) for p in parts])
    destinations, dst = _merge_keys([(p.destinations, p.dst) for p in parts])

    def joined(name: str, dtype: type) -> NDArray[Any]:
        return np.concatenate([p.columns[name] for p in parts] or [np.empty(0, dtype)]).astype(
            dtype
        )

    return _Rows(
        sources,
        destinations,
        src,
        dst,
        joined("time", np.int64),
        joined("rtt", np.float64),
        {name: joined(name, np.int64) for name in INTEGERS},
    )


def _take(run: Run, start: int, stop: int, cut: Cut, split: str) -> Run:
    """A copy of the rows start to stop - 1 that are in the wanted split, with the keys they use."""
    rows = start + np.flatnonzero(cut.split_of(run, start, stop) == cut.splits.index(split))
    src_used, src = distinct_codes(run.src[rows], len(run.sources))
    dst_used, dst = distinct_codes(run.dst[rows], len(run.destinations))
    columns = {name: values[rows] for name, values in run.columns.items()}
    return Run(run.sources[src_used], run.destinations[dst_used], src, dst, columns)


def _merge_keys(parts: list[tuple[Keys, NDArray[np.uint32]]]) -> tuple[Keys, NDArray[np.uint32]]:
    """Merge the key tables of all parts into one sorted table; return it and all codes in it."""
    if not parts:
        return np.empty(0, "S17"), np.empty(0, np.uint32)
    keys, place = merge_keys([keys for keys, _ in parts])
    first = np.cumsum([0, *(len(keys) for keys, _ in parts)])
    codes = [
        place[start : start + len(keys)][codes]
        for start, (keys, codes) in zip(first[:-1], parts, strict=True)
    ]
    return keys, np.concatenate(codes)


def _text(codes: NDArray[np.uint32], keys: Keys) -> pa.Array:
    """Dictionary-encoded text of addresses, without the keys that no row uses."""
    used, place = distinct_codes(codes, len(keys))
    return pa.DictionaryArray.from_arrays(
        place.astype(np.int32), pa.array(format_addresses(keys[used]), pa.string())
    )
