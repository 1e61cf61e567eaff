"""The manifest: what a store holds and what it was made from. Written last, only on success.

It is stored in the attributes of the root's `zarr.json`, so any zarr reader shows it, and a store
without one is not even a zarr group. It holds no clock time and no absolute path: the same input, options and
seed give the same manifest anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from stores.errors import DamagedStoreError, NotAStoreError
from stores.files import parse_json, write_json
from stores.layout import (
    MAX_WINDOWS_PER_CHUNK,
    MODES,
    SPLITS,
    VALIDATION,
    WITH_VALIDATION,
    chunk_file,
)
from stores.overlap import Count, OverlapCounts, new_sources_warning
from stores.vocabulary import CONTEXT

FORMAT_VERSION = 1
VALIDATION_FORMAT_VERSION = 2
"""Of a store with a validation split, so that a reader that would overlook it refuses the store."""
SPLITS_OF_FORMAT = {FORMAT_VERSION: SPLITS, VALIDATION_FORMAT_VERSION: WITH_VALIDATION}
ATTRIBUTE = "pinglm"


@dataclass(frozen=True)
class InputDigest:
    """A file that the store was made from."""

    name: str
    """Relative to what the user named."""
    size: Count
    """In bytes."""
    sha256: str
    """In hex."""


class LedgerTotals(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the rows of all input files went: rows = train + validation + test + rejected."""

    rows: Count
    train: Count
    test: Count
    rejected: dict[str, Count]
    """Rows by the reason for which they were rejected."""
    validation: Count = 0
    """Left out of the JSON where there are none, as most stores have no such split."""

    def taken(self, splits: Sequence[str]) -> dict[str, int]:
        """Rows by split."""
        return {split: getattr(self, split) for split in splits}

    @property
    def equation(self) -> str:
        """For people: "1,003 rows = 900 train + 100 test + 3 rejected"."""
        validation = f"{self.validation:,} validation + " if self.validation else ""
        return (
            f"{self.rows:,} rows = {self.train:,} train + {validation}{self.test:,} test + "
            f"{sum(self.rejected.values()):,} rejected"
        )


@dataclass(frozen=True)
class ArrayTotals:
    """Totals of one array of windows."""

    windows: Count
    windows_per_chunk: Annotated[int, msgspec.Meta(ge=1, le=MAX_WINDOWS_PER_CHUNK)]
    measurements: Count
    tokens: Count
    """Without the tails of the windows."""


@dataclass(frozen=True)
class ChunkFile:
    """A chunk file: its size in bytes and the SHA-256 of its content, in hex."""

    size: Count
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Contents of a finished store."""

    format_version: int
    vocabulary_version: int
    configuration: dict[str, dict[str, Any]]
    """By stage, the options that shaped the bytes, the seed among them."""
    inputs: list[InputDigest]
    ledger: LedgerTotals
    arrays: dict[str, ArrayTotals]
    """By "split/mode"."""
    files: dict[str, ChunkFile]
    """Chunk files by their path relative to the store."""
    overlap: dict[str, OverlapCounts] = field(default_factory=dict)
    """By "sources", "destinations" and "pairs". Not part of the digest: it follows from the rows, and stores
    of earlier versions do not have it."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the store has."""
        return SPLITS_OF_FORMAT[self.format_version]

    @property
    def new_sources(self) -> str | None:
        """One line to print where many of the sources that are held out are not in train, else `None`."""
        return new_sources_warning(self.overlap, str(self.configuration.get("split", {}).get("by")))

    @property
    def digest(self) -> str:
        """Identity of the store: hex SHA-256 over the canonical JSON of all fields but `overlap`."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def passes(self) -> int:
        """How many differently shuffled copies of the rows the arrays hold, one after the other."""
        passes: int = self.configuration.get("tokenize", {}).get("passes", 1)
        return passes

    def as_json(self) -> dict[str, Any]:
        """The fields that the digest covers, as JSON-able dicts and lists."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        del fields["overlap"]
        return fields


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Finish a store: make its root a zarr v3 group whose attributes are the manifest and its digest."""
    fields = {"digest": manifest.digest, **manifest.as_json()}
    if manifest.overlap:
        fields["overlap"] = msgspec.to_builtins(manifest.overlap)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: fields}}
    write_json(store / "zarr.json", group)


UNFINISHED_PULL = ".pull"
"""The folder inside a store that is there while files of it are on their way from a URL."""


def read_manifest(store: Path) -> Manifest:
    """Manifest of a finished store, whose claims agree with each other: what it says of the arrays fits the
    files that it lists, so nothing is allocated or looped over that does not exist.

    Raises `NotAStoreError` when there is none. Raises `DamagedStoreError` as `parse_manifest` does.
    """
    path = store / "zarr.json"
    if not path.is_file():
        pulling = (store / UNFINISHED_PULL).is_dir()
        finish = f"run `{'pull' if pulling else 'prepare'}` (again) to finish it"
        raise NotAStoreError(
            f"{store}: no finished manifest, so this is not a store: "
            f"{finish if store.exists() else 'there is nothing at this path'}"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedStoreError(
            f"{path}: not a pinglm manifest ({type(error).__name__}: {error})"
        ) from error
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in the bytes of a store's root `zarr.json`, whose claims agree with each other; `where` is
    what errors call the file.

    Raises `DamagedStoreError` when it cannot be read, lacks a field or an array, holds a value of the wrong
    type, has another format version, contradicts itself, lists a path outside the store, or does not have
    the digest that it claims.
    """
    try:
        fields = dict(parse_json(content)["attributes"][ATTRIBUTE])
        claimed = fields.pop("digest")
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStoreError(
            f"{where}: not a pinglm manifest ({type(error).__name__}: {error})"
        ) from error
    if version not in tuple(SPLITS_OF_FORMAT):
        raise DamagedStoreError(
            f"{where}: store format {version}, but this pinglm reads the formats "
            f"{' and '.join(map(str, SPLITS_OF_FORMAT))}: prepare the store again"
        )
    try:
        manifest = msgspec.convert(fields, Manifest)
        digest = manifest.digest
    except (ValueError, RecursionError) as error:  # also text that is no Unicode
        raise DamagedStoreError(
            f"{where}: not a pinglm manifest: {error}: prepare the store again"
        ) from error
    if (problem := _contradiction(manifest)) is not None:
        raise DamagedStoreError(f"{where}: {problem}: prepare the store again")
    if digest != claimed:
        raise DamagedStoreError(
            f"{where}: the manifest's digest is {digest}, expected {claimed}: it was edited"
        )
    return manifest


def _contradiction(manifest: Manifest) -> str | None:
    """The first thing in which a manifest contradicts itself, or `None`. Takes time by the files that it
    lists, not by the numbers that it holds."""
    if type(manifest.passes) is not int or manifest.passes < 1:
        return f"tokenize.passes is {manifest.passes!r}, expected 1 or more"
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if "/".join(parts) != name or not parts or ".." in parts or "\0" in name:
            return f"it lists {name!r}, which is not a path inside the store"
    for kind, counts in manifest.overlap.items():
        for split in ("test", VALIDATION):
            of_split, known = counts.held_out(split)
            if known > min(of_split, counts.train):
                return (
                    f"overlap: {known} {kind} in train and {split}, but only {of_split} in {split}"
                )
    for split in manifest.splits:
        for mode in MODES:
            array = manifest.arrays.get(f"{split}/{mode}")
            if array is None:
                return f"the manifest does not describe {split}/{mode}"
            problem = _array_contradiction(array, split, mode, manifest.files)
            if problem is not None:
                return f"{split}/{mode}: {problem}"
    return None


def _array_contradiction(
    array: ArrayTotals, split: str, mode: str, files: dict[str, ChunkFile]
) -> str | None:
    """As `_contradiction`, of one array and its files."""
    windows, rows = array.windows, array.windows_per_chunk
    if not windows <= array.measurements <= array.tokens <= windows * CONTEXT:
        return (
            f"{array.tokens} tokens and {array.measurements} measurements in {windows} windows, expected "
            f"one measurement or more and at most {CONTEXT} tokens in each"
        )
    chunks = -(-windows // rows)
    if chunks > len(files):
        return f"{windows} windows of {rows} a file take {chunks} files, but it lists {len(files)}"
    sizes = {("tokens", chunk): rows * 2 * CONTEXT for chunk in range(chunks)}
    if windows:
        sizes |= {("length", 0): 2 * windows, ("measurements", 0): 2 * windows}
    for (name, chunk), size in sizes.items():
        path = chunk_file(Path(), split, mode, name, chunk).as_posix()
        if path not in files:
            return f"the manifest does not list {path}"
        if files[path].size != size:
            return f"the manifest gives {path} {files[path].size} bytes, its array {size}"
    return None
