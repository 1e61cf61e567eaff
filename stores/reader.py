"""Read-only access to a finished store: any rows in any order, at memory-map speed, in constant memory."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stores.errors import ConfigError, DamagedStoreError
from stores.layout import MODES, VALIDATION, chunk_file
from stores.manifest import Manifest, read_manifest
from stores.vocabulary import CONTEXT

ROW_BYTES = 2 * CONTEXT
MAX_MAPS = 768  # each holds a file descriptor, and 1024 of those is a common limit
FAULT_BYTES = 64 * 1024  # what Linux maps around one page fault, so what one row can make resident

_DTYPE = np.dtype("<u2")


class _Array(NamedTuple):
    """A `tokens` array: its windows, how many of them a chunk file holds, and the number of the first
    of its chunk files, which are numbered through the store."""

    windows: int
    per_chunk: int
    first_chunk: int


def find_store(path: str | os.PathLike[str]) -> Path:
    """`path` itself, or the `store.zarr` inside it when `path` is an output folder of `prepare`."""
    path = Path(path)
    inside = path / "store.zarr"
    return inside if inside.is_dir() else path


class TokenStore:
    """Token windows of a finished store.

    Every method is safe to call from several threads. A store is pickled as its path, and opened again
    where it is unpickled. `split` is one of `splits`, `mode` is "full", "none" or "mixed"; anything else is
    a `ConfigError`.
    """

    path: Path
    manifest: Manifest

    def __init__(self, path: Path, manifest: Manifest, resident_bytes: int) -> None:
        """Use `TokenStore.open`."""
        self.path = path
        self.manifest = manifest
        self._resident_bytes = resident_bytes
        self._arrays: dict[tuple[str, str], _Array] = {}
        files: list[Path] = []
        sizes: list[int] = []
        for split in manifest.splits:
            for mode in MODES:
                described = manifest.arrays[f"{split}/{mode}"]
                windows, rows = described.windows, described.windows_per_chunk
                chunks = -(-windows // rows)
                self._arrays[split, mode] = _Array(windows, rows, len(files))
                files += [chunk_file(path, split, mode, "tokens", chunk) for chunk in range(chunks)]
                sizes += [rows * ROW_BYTES] * chunks
        self._maps = _Maps(files, sizes)
        self._small: dict[tuple[str, str, str], NDArray[np.uint16]] = {}
        self._rows_since_release = 0

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, resident_bytes: int | None = None) -> TokenStore:
        """Open a store, or the output folder it lies in.

        `resident_bytes` bounds how much of the mapped files counts as this process's memory; by
        default a quarter of the machine's. A store larger than that is still read in flat memory, at
        the cost of about one page fault (1.5 µs) a row.

        Checks that every chunk file is there with the size the manifest says, which costs one `stat`
        a file, and that every window's length is one; maps no tokens yet. Raises `NotAStoreError` when the
        store was not finished, `DamagedStoreError` naming the first file that is missing, of another size,
        or with a length that cannot be.
        """
        store = find_store(path)
        manifest = read_manifest(store)
        for name, file in manifest.files.items():
            check_size(store / name, file.size)
        if resident_bytes is None:
            resident_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
        opened = cls(store, manifest, resident_bytes)
        for split in manifest.splits:
            for mode in MODES:
                opened._check_lengths(split, mode)
        return opened

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._resident_bytes)

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, digest={self.digest[:12]})"

    @cached_property
    def digest(self) -> str:
        """Identity of the store: hex SHA-256 over its manifest."""
        return self.manifest.digest

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the store has: "train", "test", and between them "validation" if it was asked for."""
        return self.manifest.splits

    @property
    def choosing_split(self) -> str:
        """The split on which to choose between checkpoints, settings and the like: "validation" where that has
        windows, otherwise "test"."""
        has_any = VALIDATION in self.splits and any(self.windows(VALIDATION, m) for m in MODES)
        return VALIDATION if has_any else "test"

    def windows(self, split: str, mode: str) -> int:
        """Windows in an array."""
        return self._array(split, mode).windows

    def lengths(self, split: str, mode: str) -> NDArray[np.uint16]:
        """Tokens of each window before its tail: uint16 (windows,), read-only, 1 to 1024.

        Read when the store is opened, and kept (2 bytes a window).
        """
        return self._per_window(split, mode, "length")

    def measurements(self, split: str, mode: str) -> NDArray[np.uint16]:
        """Whole measurements in each window: uint16 (windows,), read-only.

        Read at the first call, kept from then on (2 bytes a window).
        """
        return self._per_window(split, mode, "measurements")

    def gather(self, split: str, mode: str, rows: ArrayLike) -> NDArray[np.uint16]:
        """Copy windows: uint16 (n, 1024), a fresh, writable array; tails are 0.

        `rows` is (n,) integers from 0 to `windows(split, mode)` - 1, in any order, repeats allowed.
        Raises `IndexError` for a row outside. About 0.5 µs a row once the file is in the page cache;
        a cold row costs a disk read.
        """
        _, per_chunk, first = self._array(split, mode)
        maps = self._maps
        return self._join(
            [
                maps[first + row // per_chunk][(at := row % per_chunk * ROW_BYTES) : at + ROW_BYTES]
                for row in self._check_rows(split, mode, rows)
            ]
        )

    def locate(self, split: str, mode: str, rows: ArrayLike) -> tuple[NDArray[np.int64], ...]:
        """Places of rows for `gather_at`: chunk numbers and byte offsets, int64 (n,) each."""
        windows, per_chunk, first = self._array(split, mode)
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= windows):
            self._check_rows(split, mode, rows)  # raises
        chunk, row = np.divmod(rows, per_chunk)
        return chunk + first, row * ROW_BYTES

    def gather_at(self, chunks: Sequence[int], offsets: Sequence[int]) -> NDArray[np.uint16]:
        """`gather` of rows of several arrays at once, at places that `locate` gave."""
        maps = self._maps
        return self._join(
            [maps[chunk][at : at + ROW_BYTES] for chunk, at in zip(chunks, offsets, strict=True)]
        )

    def blocks(
        self, split: str, mode: str, rows: int = 4096
    ) -> Iterator[tuple[int, NDArray[np.uint16], NDArray[np.uint16]]]:
        """All windows in order: (first row, tokens (≤ rows, 1024), their lengths), at most `rows` a block.

        Reads the files, not the maps: for one pass over everything.
        """
        array = self._array(split, mode)
        lengths = self.lengths(split, mode)
        for start in range(0, array.windows, array.per_chunk):
            path = chunk_file(self.path, split, mode, "tokens", start // array.per_chunk)
            stop = min(start + array.per_chunk, array.windows)
            for first in range(start, stop, rows):
                count = min(rows, stop - first)
                tokens = np.fromfile(
                    path, "<u2", count * CONTEXT, offset=(first - start) * ROW_BYTES
                )
                if tokens.size != count * CONTEXT:
                    raise DamagedStoreError(f"{path}: shorter than when the store was opened")
                yield first, tokens.reshape(count, CONTEXT), lengths[first : first + count]

    def _array(self, split: str, mode: str) -> _Array:
        try:
            return self._arrays[split, mode]
        except KeyError:
            raise ConfigError(
                f"no array {split}/{mode}: the split is one of {', '.join(self.splits)}, "
                f"the mode one of {', '.join(MODES)}"
            ) from None

    def _check_rows(self, split: str, mode: str, rows: ArrayLike) -> list[int]:
        """The rows as a list; of 32 numbers, that is checked faster than an array."""
        windows = self._array(split, mode).windows
        array = np.asarray(rows)
        listed: list[int] = array.tolist()
        if array.ndim != 1 or (listed and array.dtype.kind not in "iu"):
            raise IndexError(
                f"rows of {split}/{mode}: expected integers of shape (n,), "
                f"found {array.dtype} of shape {array.shape}"
            )
        if listed and not (min(listed) >= 0 and max(listed) < windows):
            outside = next(row for row in listed if not 0 <= row < windows)
            raise IndexError(f"row {outside} of {split}/{mode}: expected 0 to {windows - 1}")
        return listed

    def _join(self, rows: list[memoryview]) -> NDArray[np.uint16]:
        """Copy mapped rows into one array. Joining bytes is twice as fast as assigning array rows."""
        tokens = np.ndarray((len(rows), CONTEXT), _DTYPE, bytearray().join(rows))
        self._rows_since_release += len(rows)
        if self._rows_since_release * FAULT_BYTES > self._resident_bytes:
            self._rows_since_release = 0
            if self._maps.mapped_bytes() > self._resident_bytes:
                self._maps.release()
        return tokens

    def _check_lengths(self, split: str, mode: str) -> None:
        lengths = self.lengths(split, mode)
        path = chunk_file(self.path, split, mode, "length")
        bad = np.flatnonzero((lengths < 1) | (lengths > CONTEXT))
        if bad.size:
            raise DamagedStoreError(
                f"{path}: window {bad[0]} has the length {lengths[bad[0]]}, expected 1 to {CONTEXT}: "
                "prepare the store again"
            )
        total, expected = (
            int(lengths.sum(dtype=np.int64)),
            self.manifest.arrays[f"{split}/{mode}"].tokens,
        )
        if total != expected:
            raise DamagedStoreError(
                f"{path}: adds up to {total}, but the manifest says {expected}: prepare the store again"
            )

    def _per_window(self, split: str, mode: str, name: str) -> NDArray[np.uint16]:
        windows = self.windows(split, mode)
        if (split, mode, name) not in self._small:
            values = np.zeros(0, np.uint16)
            if windows:
                values = np.fromfile(chunk_file(self.path, split, mode, name), "<u2")[:windows]
            values.setflags(write=False)
            self._small[split, mode, name] = values
        return self._small[split, mode, name]


class _Maps(dict[int, memoryview]):
    """Memory maps of numbered files, made when first asked for, at most `MAX_MAPS` at a time."""

    def __init__(self, files: list[Path], sizes: list[int]) -> None:
        super().__init__()
        self._files = files
        self._sizes = sizes

    def __missing__(self, chunk: int) -> memoryview:
        path, size = self._files[chunk], self._sizes[chunk]
        try:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DamagedStoreError(f"{path}: cannot map {size} bytes: {error}") from error
        for oldest in list(self)[: len(self) + 1 - MAX_MAPS]:
            self.pop(oldest, None)  # unmapped when the last thread that copies from it is done
        self[chunk] = view = memoryview(mapped)
        return view

    def mapped_bytes(self) -> int:
        return sum(view.nbytes for view in list(self.values()))

    def release(self) -> None:
        """Give all resident pages back. They stay in the page cache: the next touch maps them again."""
        for view in list(self.values()):
            assert isinstance(view.obj, mmap.mmap)
            view.obj.madvise(mmap.MADV_DONTNEED)


def _reopen(path: Path, resident_bytes: int) -> TokenStore:
    return TokenStore.open(path, resident_bytes=resident_bytes)


def check_size(path: Path, size: int) -> None:
    """Raise `DamagedStoreError` unless `path` is a regular file of `size` bytes."""
    try:
        status = path.stat()
    except OSError as error:
        raise DamagedStoreError(
            f"{path}: {error.strerror}, expected {size} bytes: prepare the store again"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedStoreError(f"{path}: not a regular file: prepare the store again")
    if status.st_size != size:
        raise DamagedStoreError(
            f"{path}: {status.st_size} bytes, expected {size}: prepare the store again"
        )
