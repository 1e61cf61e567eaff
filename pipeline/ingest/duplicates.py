"""Duplicates among rows: the same (msm_id, prb_id, timestamp), in one file or across files.

The identities of a part are kept in an Arrow file with one record batch per partition of the
identities' hash, so that one partition can be read from all parts without reading the others.
Duplicates are found partition by partition: the first row in the order of parts and rows stays. The
rows to drop are kept in one Arrow file per partition, with one record batch per part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import Record, to_json
from stores.files import atomic_path
from stores.hashing import fold

_IDENTITY = pa.schema(
    [(name, pa.int64()) for name in ("msm_id", "prb_id", "timestamp")] + [("row", pa.int32())]
)
_DROPPED = pa.schema([("row", pa.int32())])

Integers = NDArray[np.int64]


class FoundDuplicates(Record, frozen=True):
    """What `find_duplicates` returns: how many rows of each part repeat an earlier one."""

    dropped: list[int]


def write_identities(
    path: Path, msm_id: Integers, prb_id: Integers, timestamp: Integers, partitions: int
) -> None:
    """Write the identities (n,) of a part's rows, grouped by partition."""
    columns = [msm_id, prb_id, timestamp]
    hashes = np.zeros(len(msm_id), np.uint64)
    for column in columns:
        hashes = fold(hashes, column.view(np.uint64))
    partition = (hashes % np.uint64(partitions)).astype(np.int64)
    order = np.argsort(partition, kind="stable")
    ends = np.cumsum(np.bincount(partition, minlength=partitions))
    arrays = [column[order] for column in columns] + [order.astype(np.int32)]
    _write_batches(path, _IDENTITY, arrays, ends)


def find_duplicates(parts: list[Path], partition: int, output: Path) -> dict[str, Any]:
    """A unit: among the identities in one partition, write which rows of each part repeat an earlier one.

    `parts` are the files of `write_identities`, in order. Returns `FoundDuplicates` as JSON. Takes about
    150 bytes of memory per identity in the partition.
    """
    batches = []
    for path in parts:
        with pa.memory_map(str(path)) as file:
            batches.append(pa.ipc.open_file(file).get_batch(partition))
    frame = pl.from_arrow(pa.Table.from_batches(batches, _IDENTITY))
    assert isinstance(frame, pl.DataFrame)
    firsts = frame.with_row_index().unique(
        ["msm_id", "prb_id", "timestamp"], keep="first", maintain_order=True
    )
    repeats = np.ones(len(frame), bool)
    repeats[firsts["index"].to_numpy()] = False
    starts = np.cumsum([0] + [len(batch) for batch in batches])
    ends = np.concatenate([[0], np.cumsum(repeats)])[starts[1:]]
    _write_batches(output, _DROPPED, [frame["row"].to_numpy()[repeats]], ends)
    return to_json(FoundDuplicates(np.diff(ends, prepend=0).tolist()))


def read_duplicates(files: list[Path], part: int) -> NDArray[np.int64]:
    """Rows to drop from part number `part`, ascending, from the outputs of `find_duplicates`."""
    rows = []
    for path in files:
        with pa.memory_map(str(path)) as file:
            rows.append(pa.ipc.open_file(file).get_batch(part).column("row").to_numpy())
    return np.sort(np.concatenate(rows)).astype(np.int64)


def _write_batches(
    path: Path, schema: pa.Schema, columns: list[NDArray[Any]], ends: NDArray[np.int64]
) -> None:
    """Write columns as one record batch for each range of rows that ends at `ends`."""
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), schema) as file:
        start = 0
        for end in ends.tolist():
            arrays = [pa.array(column[start:end]) for column in columns]
            file.write_batch(pa.record_batch(arrays, schema=schema))
            start = end
