"""The manifest: what a store holds and what it was made from. Written last, only on success.

It lies in the attributes of the root's `zarr.json`, so any zarr reader shows it and a store without
one is not even a zarr group. It holds no clock time and no absolute path: the same input, options and
seed give the same manifest anywhere.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stores.errors import DamagedStoreError, NotAStoreError
from stores.files import sync_file, write_json

FORMAT_VERSION = 1
ATTRIBUTE = "pinglm"


@dataclass(frozen=True)
class Manifest:
    """Contents of a finished store."""

    format_version: int
    vocabulary_version: int
    configuration: dict[str, Any]
    """Options of every stage that shaped the bytes, the seed among them."""
    inputs: list[dict[str, Any]]
    """Input files: `name` (relative to what the user named), `size` in bytes, `sha256`."""
    ledger: dict[str, Any]
    """Rows in all: `rows`, `train`, `test`, `rejected` {reason: rows}."""
    arrays: dict[str, dict[str, int]]
    """By "split/mode": `windows`, `windows_per_chunk`, `measurements`, `tokens` (without tails)."""
    files: dict[str, dict[str, Any]]
    """Chunk files by path relative to the store: `size` in bytes, `sha256`."""

    @property
    def digest(self) -> str:
        """Identity of the store: SHA-256 over the canonical JSON of all fields above."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Finish a store: make its root a zarr v3 group whose attributes are the manifest and its digest."""
    attributes = {ATTRIBUTE: {"digest": manifest.digest, **asdict(manifest)}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_json(store / "zarr.json", group)
    sync_file(store / "zarr.json")


def read_manifest(store: Path) -> Manifest:
    """Manifest of a finished store.

    Raises `NotAStoreError` when there is none, `DamagedStoreError` when it is not readable, of another
    format version, or does not have the digest it claims.
    """
    path = store / "zarr.json"
    if not path.is_file():
        raise NotAStoreError(
            f"{store}: no finished manifest, so not a store: run `prepare` (again) to finish it"
        )
    try:
        fields = dict(json.loads(path.read_bytes())["attributes"][ATTRIBUTE])
        claimed = fields.pop("digest")
        version = fields["format_version"]
        if version != FORMAT_VERSION:
            raise DamagedStoreError(
                f"{path}: store format {version}, but this pinglm reads format {FORMAT_VERSION}: "
                "prepare the store again"
            )
        manifest = Manifest(**fields)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DamagedStoreError):
            raise
        raise DamagedStoreError(f"{path}: not a pinglm manifest ({error!r})") from error
    if manifest.digest != claimed:
        raise DamagedStoreError(
            f"{path}: the manifest's digest is {manifest.digest}, expected {claimed}: it was edited"
        )
    return manifest
