"""Read-only access to a finished store: any rows in any order, at memory-map speed, in constant memory."""

from __future__ import annotations

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
from stores.maps import ROW_BYTES, WindowMaps, default_resident_bytes
from stores.vocabulary import CONTEXT


class ChunkedArray(NamedTuple):
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
    maps: WindowMaps
    """Its chunk files of tokens."""

    def __init__(self, path: Path, manifest: Manifest, resident_bytes: int) -> None:
        """Use `TokenStore.open`."""
        self.path = path
        self.manifest = manifest
        self._arrays: dict[tuple[str, str], ChunkedArray] = {}
        files: list[Path] = []
        sizes: list[int] = []
        for split in manifest.splits:
            for mode in MODES:
                described = manifest.arrays[f"{split}/{mode}"]
                windows, rows = described.windows, described.windows_per_chunk
                chunks = -(-windows // rows)
                self._arrays[split, mode] = ChunkedArray(windows, rows, len(files))
                files += [chunk_file(path, split, mode, "tokens", chunk) for chunk in range(chunks)]
                sizes += [rows * ROW_BYTES] * chunks
        self.maps = WindowMaps(files, sizes, resident_bytes)
        self._small: dict[tuple[str, str, str], NDArray[np.uint16]] = {}

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
            resident_bytes = default_resident_bytes()
        opened = cls(store, manifest, resident_bytes)
        for split in manifest.splits:
            for mode in MODES:
                opened._check_lengths(split, mode)
        return opened

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.maps.resident_bytes)

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, digest={self.digest[:12]})"

    @property
    def name(self) -> str:
        """What messages and records call it: its path."""
        return str(self.path)

    @property
    def parts(self) -> tuple[TokenStore, ...]:
        """Itself, as a `StoreUnion` has several."""
        return (self,)

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

    @property
    def new_sources(self) -> str | None:
        """One line to print where many of the sources that are held out are not in train, else `None`."""
        return self.manifest.new_sources

    def windows(self, split: str, mode: str) -> int:
        """Windows in an array."""
        return self.array(split, mode).windows

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
        windows, per_chunk, first = self.array(split, mode)
        maps = self.maps
        return maps.join(
            [
                maps[first + row // per_chunk][(at := row % per_chunk * ROW_BYTES) : at + ROW_BYTES]
                for row in check_rows(rows, windows, f"{split}/{mode}")
            ]
        )

    def locate(self, split: str, mode: str, rows: ArrayLike) -> tuple[NDArray[np.int64], ...]:
        """Places of rows for `gather_at`: chunk numbers and byte offsets, int64 (n,) each."""
        windows, per_chunk, first = self.array(split, mode)
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= windows):
            check_rows(rows, windows, f"{split}/{mode}")  # raises
        chunk, row = np.divmod(rows, per_chunk)
        return chunk + first, row * ROW_BYTES

    def gather_at(self, chunks: Sequence[int], offsets: Sequence[int]) -> NDArray[np.uint16]:
        """`gather` of rows of several arrays at once, at places that `locate` gave."""
        return self.maps.gather_at(chunks, offsets)

    def blocks(
        self, split: str, mode: str, rows: int = 4096
    ) -> Iterator[tuple[int, NDArray[np.uint16], NDArray[np.uint16]]]:
        """All windows in order: (first row, tokens (≤ rows, 1024), their lengths), at most `rows` a block.

        Reads the files, not the maps: for one pass over everything.
        """
        array = self.array(split, mode)
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

    def array(self, split: str, mode: str) -> ChunkedArray:
        """Where the windows of an array are among the chunk files of `maps`."""
        try:
            return self._arrays[split, mode]
        except KeyError:
            raise ConfigError(
                f"no array {split}/{mode}: the split is one of {', '.join(self.splits)}, "
                f"the mode one of {', '.join(MODES)}"
            ) from None

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


def _reopen(path: Path, resident_bytes: int) -> TokenStore:
    return TokenStore.open(path, resident_bytes=resident_bytes)


def check_rows(rows: ArrayLike, windows: int, name: str) -> list[int]:
    """Rows of an array of so many windows as a list; of 32 numbers, that is checked faster than an array.

    Raises `IndexError`, calling the array `name`, for anything but integers (n,) from 0 to `windows` - 1.
    """
    array = np.asarray(rows)
    listed: list[int] = array.tolist()
    if array.ndim != 1 or (listed and array.dtype.kind not in "iu"):
        raise IndexError(
            f"rows of {name}: expected integers of shape (n,), "
            f"found {array.dtype} of shape {array.shape}"
        )
    if listed and not (min(listed) >= 0 and max(listed) < windows):
        outside = next(row for row in listed if not 0 <= row < windows)
        raise IndexError(f"row {outside} of {name}: expected 0 to {windows - 1}")
    return listed


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
