"""Several stores as one: each day is prepared once, and any list of days is trained on as if it were a store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stores.errors import ConfigError
from stores.layout import MODES, VALIDATION
from stores.maps import ROW_BYTES, WindowMaps, default_resident_bytes
from stores.reader import TokenStore, check_rows

StorePaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One store or several: paths as `TokenStore.open` takes them."""

Ints = NDArray[np.int64]


class _Spread(NamedTuple):
    """An array of windows that is spread over the stores: each field has a number for each store."""

    begin: Ints
    """Its first row."""
    end: Ints
    per_chunk: Ints
    first_chunk: Ints
    """The number of its first chunk file, counted through all stores."""


class StoreUnion:
    """Several finished stores as one. Open it with `open_stores`.

    The windows of a split and mode are those of the first store, then those of the second, and so on. It
    offers what reading windows needs of a `TokenStore`, with the same promises; what else a store knows is
    found in its `parts`. Maps, and so file descriptors and resident memory, are bounded for all together.
    """

    parts: tuple[TokenStore, ...]
    maps: WindowMaps
    """The chunk files of tokens of all stores."""

    def __init__(self, parts: Sequence[TokenStore], resident_bytes: int) -> None:
        """Stores of the same splits. Use `open_stores`, which checks that."""
        self.parts = tuple(parts)
        files = [file for part in parts for file in part.maps.files]
        sizes = [size for part in parts for size in part.maps.sizes]
        self.maps = WindowMaps(files, sizes, resident_bytes)
        counts = np.array([len(part.maps.files) for part in parts])
        before = np.cumsum(counts) - counts
        self._arrays: dict[tuple[str, str], _Spread] = {}
        for split in self.splits:
            for mode in MODES:
                windows, per_chunk, first = np.array([part.array(split, mode) for part in parts]).T
                end = np.cumsum(windows)
                self._arrays[split, mode] = _Spread(end - windows, end, per_chunk, first + before)
        self._lengths: dict[tuple[str, str], NDArray[np.uint16]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, ([part.path for part in self.parts], self.maps.resident_bytes)

    def __repr__(self) -> str:
        return f"StoreUnion({self.name!r}, digest={self.digest[:12]})"

    @property
    def name(self) -> str:
        """What messages and records call it: the paths of its stores."""
        return ", ".join(part.name for part in self.parts)

    @cached_property
    def digest(self) -> str:
        """Identity of the list: hex SHA-256 over the digests of its stores, in order, each with a newline."""
        lines = "".join(f"{part.digest}\n" for part in self.parts)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that every one of the stores has."""
        return self.parts[0].splits

    @property
    def choosing_split(self) -> str:
        """As `TokenStore.choosing_split`."""
        chosen = {part.choosing_split for part in self.parts}
        return VALIDATION if VALIDATION in chosen else "test"

    @property
    def new_sources(self) -> str | None:
        """As `TokenStore.new_sources`, of the first store of which there is something to say. Each was counted
        alone: how many of its sources the others have in train is not known before all rows are read."""
        found = [(part.name, part.new_sources) for part in self.parts if part.new_sources]
        if not found:
            return None
        name, warning = found[0]
        others = f" and {len(found) - 1} more of the {len(self.parts)} stores"
        return f"{name}{others if found[1:] else ''}, counted without the other stores: {warning}"

    def windows(self, split: str, mode: str) -> int:
        """Windows in an array, over all stores."""
        return int(self._array(split, mode).end[-1])

    def lengths(self, split: str, mode: str) -> NDArray[np.uint16]:
        """As `TokenStore.lengths`: uint16 (windows,), read-only."""
        if (split, mode) not in self._lengths:
            values = np.concatenate([part.lengths(split, mode) for part in self.parts])
            values.setflags(write=False)
            self._lengths[split, mode] = values
        return self._lengths[split, mode]

    def gather(self, split: str, mode: str, rows: ArrayLike) -> NDArray[np.uint16]:
        """As `TokenStore.gather`: uint16 (n, 1024) of the rows (n,), in any order."""
        checked = check_rows(rows, self.windows(split, mode), f"{split}/{mode}")
        chunks, offsets = self.locate(split, mode, checked)
        return self.gather_at(chunks.tolist(), offsets.tolist())

    def locate(self, split: str, mode: str, rows: ArrayLike) -> tuple[Ints, ...]:
        """As `TokenStore.locate`: chunk numbers and byte offsets, int64 (n,) each."""
        array = self._array(split, mode)
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= array.end[-1]):
            check_rows(rows, int(array.end[-1]), f"{split}/{mode}")  # raises
        store = np.searchsorted(array.end, rows, side="right")
        chunk, row = np.divmod(rows - array.begin[store], array.per_chunk[store])
        return chunk + array.first_chunk[store], row * ROW_BYTES

    def gather_at(self, chunks: Sequence[int], offsets: Sequence[int]) -> NDArray[np.uint16]:
        """`gather` of rows of several arrays at once, at places that `locate` gave."""
        return self.maps.gather_at(chunks, offsets)

    def _array(self, split: str, mode: str) -> _Spread:
        self.parts[0].array(split, mode)  # raises if there is none
        return self._arrays[split, mode]


Store = TokenStore | StoreUnion
"""What a model is trained and evaluated on."""


def open_stores(paths: StorePaths, *, resident_bytes: int | None = None) -> Store:
    """Open a store, or several as one: the same list is the same windows in the same order.

    `resident_bytes` as for `TokenStore.open`, which a single path is given to. Raises what that raises, and
    `ConfigError` for no store, a store given twice, and stores of different splits.
    """
    if resident_bytes is None:
        resident_bytes = default_resident_bytes()
    parts = [TokenStore.open(path, resident_bytes=resident_bytes) for path in listed(paths)]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        raise ConfigError("no store: name at least one")
    first = parts[0]
    by_digest: dict[str, TokenStore] = {}
    for part in parts:
        same = by_digest.setdefault(part.digest, part)
        if same is not part:
            raise ConfigError(
                f"{part.name}: the same store as {same.name} (digest {part.digest}): name each store once"
            )
        if part.splits != first.splits:
            raise ConfigError(
                f"{part.name}: has the splits {', '.join(part.splits)}, but {first.name} has "
                f"{', '.join(first.splits)}: prepare all of them with --validation, or none"
            )
    return StoreUnion(parts, resident_bytes)


def listed(paths: StorePaths) -> list[Path]:
    """One path or several, as a list."""
    if isinstance(paths, str | os.PathLike):
        return [Path(paths)]
    return [Path(path) for path in paths]


def _reopen(paths: list[Path], resident_bytes: int) -> Store:
    return open_stores(paths, resident_bytes=resident_bytes)
