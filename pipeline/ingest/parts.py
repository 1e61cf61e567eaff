"""Parts: the rows that one unit of `ingest` accepted, as Parquet, with their identities beside them."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.duplicates import Integers, write_identities
from pipeline.measurements import INGESTED_SCHEMA
from pipeline.records import Record
from stores.files import atomic_path
from stores.measurements.atlas_result import Row

ROWS_AT_ONCE = 1 << 12  # held as Python objects; more would keep the garbage collector busy
ROW_GROUP = 1 << 18
ROWS_PER_PART = 4 * ROW_GROUP


class Part(Record, frozen=True):
    """A finished part: its files are `<name>.parquet` and `<name>.arrow`."""

    name: str
    rows: int


class PartWriter:
    """Writes rows to `<folder>/<stem>-000.parquet`, -001, ..., each whole or absent and at most
    `ROWS_PER_PART` rows long, and their identities to the same names with `.arrow`.

    Holds one row group in memory (about 30 MB).
    """

    def __init__(self, folder: Path, stem: str, partitions: int) -> None:
        self._folder, self._stem, self._partitions = folder, stem, partitions
        self._rows: list[Row] = []
        self._files: list[str] = []
        self._file_indices: list[int] = []
        self._row_numbers: list[int] = []
        self._tables: list[pa.Table] = []
        self._held = 0
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._identities: list[tuple[Integers, Integers, Integers]] = []
        self.parts: list[Part] = []
        """Finished parts, in order."""

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._convert()
                self._write_row_group()
                self._finish_part()
        finally:
            self._stack.__exit__(kind, error, trace)

    def start_file(self, name: str) -> None:
        """Rows added from now on come from input `name`."""
        self._files.append(name)

    def add(self, row: Row, row_number: int) -> None:
        """Append a row, with its number in the file."""
        self._rows.append(row)
        self._file_indices.append(len(self._files) - 1)
        self._row_numbers.append(row_number)
        if len(self._rows) == min(ROWS_AT_ONCE, ROW_GROUP):
            self._convert()

    def _convert(self) -> None:
        """Turn the rows held as Python objects into a table."""
        if not self._rows:
            return
        msm_id, timestamp, src, dst, version, rtt, size, errors, prb_id = zip(
            *self._rows, strict=True
        )
        seconds = np.array(timestamp, np.int64)
        time = pa.array(seconds * 1_000_000).cast(INGESTED_SCHEMA.field("event_time").type)
        file = pa.DictionaryArray.from_arrays(
            pa.array(self._file_indices, pa.int32()), pa.array(self._files, pa.string())
        )
        columns = [msm_id, time, src, dst, version, rtt, size, errors, prb_id, file]
        self._tables.append(pa.table([*columns, self._row_numbers], schema=INGESTED_SCHEMA))
        self._identities.append((np.array(msm_id), np.array(prb_id), seconds))
        self._held += len(self._rows)
        self._files = self._files[-1:]
        self._rows, self._file_indices, self._row_numbers = [], [], []
        if self._held % ROW_GROUP == 0:
            self._write_row_group()
        if self._held == ROWS_PER_PART:
            self._finish_part()

    def _write_row_group(self) -> None:
        if not self._tables:
            return
        if self._writer is None:
            temporary = self._stack.enter_context(atomic_path(self._path("parquet")))
            self._writer = self._stack.enter_context(_open_parquet(temporary))
        self._writer.write_table(pa.concat_tables(self._tables).unify_dictionaries(), ROW_GROUP)
        self._tables = []

    def _finish_part(self) -> None:
        if self._writer is None:
            return
        self._stack.close()
        msm_id, prb_id, timestamp = map(np.concatenate, zip(*self._identities, strict=True))
        write_identities(self._path("arrow"), msm_id, prb_id, timestamp, self._partitions)
        self.parts.append(Part(self._name(), self._held))
        self._writer, self._identities, self._held = None, [], 0

    def _name(self) -> str:
        return f"{self._stem}-{len(self.parts):03d}"

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self._name()}.{suffix}"


def write_table(path: Path, table: pa.Table) -> None:
    """Write measurement rows to one Parquet file, whole or not at all."""
    with atomic_path(path) as temporary, _open_parquet(temporary) as writer:
        writer.write_table(table.unify_dictionaries(), ROW_GROUP)


def copy_part(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, by a hard link where the file system has them."""
    with atomic_path(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _open_parquet(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, INGESTED_SCHEMA, compression="zstd")
