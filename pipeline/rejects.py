"""DIR/rejected: every row that was rejected, with its file, row number, reason and text."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.measurements import REJECTED_SCHEMA
from stores.files import atomic_path


class RejectWriter:
    """Appends rejects to one Parquet file, which appears, complete, when the `with` block succeeds.

    If nothing was rejected, there is no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> RejectWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(
        self,
        files: list[str],
        rows: NDArray[np.int64],
        reasons: list[str],
        records: list[str | None] | pa.Array,
    ) -> None:
        """Append n rejects: input names, row numbers from 1, reasons, and the rows as text."""
        if self._writer is None:
            temporary = self._stack.enter_context(atomic_path(self._path))
            self._writer = self._stack.enter_context(
                pq.ParquetWriter(temporary, REJECTED_SCHEMA, compression="zstd")
            )
        columns = [files, rows, reasons, records]
        self._writer.write_table(pa.table(columns, schema=REJECTED_SCHEMA))


def as_json(table: pa.Table) -> pa.Array:
    """Each row of a table as one JSON object: string (n,)."""
    import polars as pl  # most runs reject nothing, and every worker would pay for it

    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return (
        frame.select(pl.struct(pl.all()).struct.json_encode())
        .to_series()
        .to_arrow()
        .cast(pa.string())
    )
