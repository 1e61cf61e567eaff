"""The rejects of a unit of `ingest`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.rejects import RejectWriter

_MAX_REJECTED_TEXT = 1 << 16  # bytes of a rejected record that are kept
_REJECTS_AT_ONCE = 1 << 14
_REJECTED_BYTES_AT_ONCE = 16 << 20


class IngestRejects:
    """Collects the rejects of a unit, counts them by file, and writes them to one Parquet file."""

    def __init__(self, path: Path) -> None:
        self._writer = RejectWriter(path)
        self._file = ""
        self._counts: Counter[str] = Counter()
        self._clear()

    def __enter__(self) -> IngestRejects:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._writer.__exit__(kind, error, trace)

    def start_file(self, name: str) -> None:
        """Rejects added from now on come from input `name`."""
        self._file = name
        self._counts = Counter()

    def counts(self) -> dict[str, int]:
        """Rejects of the current file by reason."""
        return dict(sorted(self._counts.items()))

    def add(self, row: int, reason: str, text: memoryview | None) -> None:
        """Reject record number `row` of the current file; at most 64 KiB of its text is kept."""
        self._counts[reason] += 1
        self._files.append(self._file)
        self._rows.append(row)
        self._reasons.append(reason)
        if reason == "other_type" or text is None:
            self._texts.append(None)
        else:
            self._texts.append(bytes(text[:_MAX_REJECTED_TEXT]).decode("utf-8", "replace"))
            self._held += len(text)
        if len(self._rows) == _REJECTS_AT_ONCE or self._held > _REJECTED_BYTES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            rows = np.array(self._rows, np.int64)
            self._writer.add(self._files, rows, self._reasons, self._texts)
            self._clear()

    def _clear(self) -> None:
        self._files: list[str] = []
        self._rows: list[int] = []
        self._reasons: list[str] = []
        self._texts: list[str | None] = []
        self._held = 0


def number_rejects(source: Path, lines: int, output: Path) -> dict[str, Any]:
    """A unit: copy the rejects of some lines of a file, if there are any, to `output`, with the numbers that
    their rows have in the file: `lines` come before."""
    if source.exists():
        with pq.ParquetFile(source) as file, RejectWriter(output) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                rows = pc.add(table["row"], lines).to_numpy()
                writer.add(table["file"], rows, table["reason"], table["record"])
    return {}
