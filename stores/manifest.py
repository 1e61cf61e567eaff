"""The manifest: what a store holds and what it was made from. Written last, only on success.

It is stored in the attributes of the root's `zarr.json`, so any zarr reader shows it, and a store
without one is not even a zarr group. It holds no clock time and no absolute path: the same input, options and
seed give the same manifest anywhere.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from stores.errors import DamagedStoreError, NotAStoreError
from stores.files import sync_file, write_json
from stores.layout import MODES, SPLITS

FORMAT_VERSION = 1
ATTRIBUTE = "pinglm"

Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class InputDigest:
    """A file that the store was made from."""

    name: str
    """Relative to what the user named."""
    size: Count
    """In bytes."""
    sha256: str
    """In hex."""


@dataclass(frozen=True)
class LedgerTotals:
    """Where the rows of all input files went: rows = train + test + rejected."""

    rows: Count
    train: Count
    test: Count
    rejected: dict[str, Count]
    """Rows by the reason for which they were rejected."""


@dataclass(frozen=True)
class ArrayTotals:
    """Totals of one array of windows."""

    windows: Count
    windows_per_chunk: Annotated[int, msgspec.Meta(ge=1)]
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

    @property
    def digest(self) -> str:
        """Identity of the store: hex SHA-256 over the canonical JSON of all fields above."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def passes(self) -> int:
        """How many differently shuffled copies of the rows the arrays hold, one after the other."""
        return int(self.configuration.get("tokenize", {}).get("passes", 1))

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON-able dicts and lists."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Finish a store: make its root a zarr v3 group whose attributes are the manifest and its digest."""
    attributes = {ATTRIBUTE: {"digest": manifest.digest, **manifest.as_json()}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_json(store / "zarr.json", group)
    sync_file(store / "zarr.json")


UNFINISHED_PULL = ".pull"
"""The folder inside a store that is there while files of it are on their way from a URL."""


def read_manifest(store: Path) -> Manifest:
    """Manifest of a finished store.

    Raises `NotAStoreError` when there is none. Raises `DamagedStoreError` as `parse_manifest` does.
    """
    path = store / "zarr.json"
    if not path.is_file():
        pulling = (store / UNFINISHED_PULL).is_dir()
        raise NotAStoreError(
            f"{store}: no finished manifest, so this is not a store: "
            f"run `{'pull' if pulling else 'prepare'}` (again) to finish it"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedStoreError(f"{path}: not a pinglm manifest ({error!r})") from error
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in the bytes of a store's root `zarr.json`; `where` is what errors call the file.

    Raises `DamagedStoreError` when it cannot be read, lacks a field or an array, holds a value of the
    wrong type, has another format version, or does not have the digest that it claims.
    """
    try:
        fields = dict(json.loads(content)["attributes"][ATTRIBUTE])
        claimed = fields.pop("digest")
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedStoreError(f"{where}: not a pinglm manifest ({error!r})") from error
    if version != FORMAT_VERSION:
        raise DamagedStoreError(
            f"{where}: store format {version}, but this pinglm reads format {FORMAT_VERSION}: "
            "prepare the store again"
        )
    try:
        manifest = msgspec.convert(fields, Manifest)
    except msgspec.ValidationError as error:
        raise DamagedStoreError(
            f"{where}: not a pinglm manifest: {error}: prepare the store again"
        ) from error
    for name in (f"{split}/{mode}" for split in SPLITS for mode in MODES):
        if name not in manifest.arrays:
            raise DamagedStoreError(
                f"{where}: the manifest does not describe {name}: prepare the store again"
            )
    if manifest.digest != claimed:
        raise DamagedStoreError(
            f"{where}: the manifest's digest is {manifest.digest}, expected {claimed}: it was edited"
        )
    return manifest
