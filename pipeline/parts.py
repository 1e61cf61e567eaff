"""Parts: the rows that one unit of `ingest` took, as Parquet, with their identities beside them."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atlas_result import Row
from pipeline.duplicates import write_identities
from pipeline.measurements import INGESTED_SCHEMA
from stores.files import atomic_path

ROW_GROUP = 1 << 18
ROWS_PER_PART = 4 * ROW_GROUP


class PartWriter:
    """Writes rows to `<folder>/<stem>-000.parquet`, -001, ..., each whole or absent, at most
    `ROWS_PER_PART` rows long, and their identities to the same names with `.arrow`.

    Holds one row group of rows in memory (about 100 MB).
    """

    def __init__(self, folder: Path, stem: str, partitions: int) -> None:
        self._folder, self._stem, self._partitions = folder, stem, partitions
        self._rows: list[Row] = []
        self._files: list[str] = []
        self._file_indices: list[int] = []
        self._row_numbers: list[int] = []
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._identities: list[list[np.ndarray]] = []
        self.parts: list[dict[str, object]] = []
        """Finished parts: `path` without suffix, `rows`."""

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
                self._write_row_group()
                self._finish_part()
        finally:
            self._stack.__exit__(kind, error, trace)

    def start_file(self, name: str) -> None:
        """Rows from here on come from input `name`."""
        self._files.append(name)

    def add(self, row: Row, row_number: int) -> None:
        """Append a row, with its number in the file."""
        self._rows.append(row)
        self._file_indices.append(len(self._files) - 1)
        self._row_numbers.append(row_number)
        if len(self._rows) == ROW_GROUP:
            self._write_row_group()

    def _write_row_group(self) -> None:
        if not self._rows:
            return
        msm_id, timestamp, src, dst, version, rtt, size, errors, prb_id = zip(
            *self._rows, strict=True
        )
        identity = [np.array(column, np.int64) for column in (msm_id, prb_id, timestamp)]
        microseconds = pa.array(identity[2] * 1_000_000)
        file = pa.DictionaryArray.from_arrays(
            pa.array(self._file_indices, pa.int32()), pa.array(self._files, pa.string())
        )
        columns = [identity[0], microseconds.cast(INGESTED_SCHEMA.field("event_time").type)]
        columns += [src, dst, version, rtt, size, errors, identity[1], file, self._row_numbers]
        if self._writer is None:
            temporary = self._stack.enter_context(atomic_path(self._path("parquet")))
            self._writer = self._stack.enter_context(_open_parquet(temporary))
        self._writer.write_table(pa.table(columns, schema=INGESTED_SCHEMA))
        self._identities.append(identity)
        self._files = self._files[-1:]
        self._rows, self._file_indices, self._row_numbers = [], [], []
        if len(self._identities) * ROW_GROUP == ROWS_PER_PART:
            self._finish_part()

    def _finish_part(self) -> None:
        if self._writer is None:
            return
        self._stack.close()
        msm_id, prb_id, timestamp = map(np.concatenate, zip(*self._identities, strict=True))
        write_identities(self._path("arrow"), msm_id, prb_id, timestamp, self._partitions)
        self.parts.append({"name": self._name(), "rows": len(msm_id)})
        self._writer, self._identities = None, []

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
