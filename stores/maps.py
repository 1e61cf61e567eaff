"""Memory maps of the files that hold tokens: windows copied from any of them, in bounded memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stores.errors import DamagedStoreError
from stores.vocabulary import CONTEXT

ROW_BYTES = 2 * CONTEXT
MAX_MAPS = 768  # each holds a file descriptor, and 1024 of those is a common limit
FAULT_BYTES = 64 * 1024  # what Linux maps around one page fault, so what one row can make resident

_DTYPE = np.dtype("<u2")


def default_resident_bytes() -> int:
    """A quarter of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


class WindowMaps(dict[int, memoryview]):
    """Memory maps of numbered files, made when first asked for, at most `MAX_MAPS` at a time."""

    def __init__(self, files: list[Path], sizes: list[int], resident_bytes: int) -> None:
        """`sizes` are those of the files in bytes; `resident_bytes` bounds how much of them counts as this
        process's memory."""
        super().__init__()
        self.files = files
        self.sizes = sizes
        self.resident_bytes = resident_bytes
        self._rows_since_release = 0

    def __missing__(self, chunk: int) -> memoryview:
        path, size = self.files[chunk], self.sizes[chunk]
        try:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DamagedStoreError(f"{path}: cannot map {size} bytes: {error}") from error
        for oldest in list(self)[: len(self) + 1 - MAX_MAPS]:
            self.pop(oldest, None)  # unmapped when the last thread that copies from it is done
        self[chunk] = view = memoryview(mapped)
        return view

    def gather_at(self, chunks: Sequence[int], offsets: Sequence[int]) -> NDArray[np.uint16]:
        """Copy the windows at byte offsets (n,) of files (n,): uint16 (n, 1024), a fresh, writable array."""
        return self.join(
            [self[chunk][at : at + ROW_BYTES] for chunk, at in zip(chunks, offsets, strict=True)]
        )

    def join(self, rows: list[memoryview]) -> NDArray[np.uint16]:
        """Copy mapped windows into one array. Joining bytes is twice as fast as assigning array rows."""
        tokens = np.ndarray((len(rows), CONTEXT), _DTYPE, bytearray().join(rows))
        self._rows_since_release += len(rows)
        if self._rows_since_release * FAULT_BYTES > self.resident_bytes:
            self._rows_since_release = 0
            if self._mapped_bytes() > self.resident_bytes:
                self._release()
        return tokens

    def read_ahead(self, chunks: Sequence[int], offsets: Sequence[int]) -> None:
        """Ask the system to read windows at byte offsets (n,) of files (n,) from the disk, all at once and nothing
        else, before they are gathered. Returns without waiting; about 1 µs each.

        Otherwise each window that is not in the page cache waits for a disk read of 128 KiB around it.
        """
        for chunk, at in zip(chunks, offsets, strict=True):
            mapped = self[chunk].obj
            assert isinstance(mapped, mmap.mmap)
            start = at // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, start, at + ROW_BYTES - start)

    def _mapped_bytes(self) -> int:
        return sum(view.nbytes for view in list(self.values()))

    def _release(self) -> None:
        """Give all resident pages back. They stay in the page cache: the next touch maps them again."""
        for view in list(self.values()):
            assert isinstance(view.obj, mmap.mmap)
            view.obj.madvise(mmap.MADV_DONTNEED)
