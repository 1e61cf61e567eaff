"""Copies a finished store to a URL."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from stores.array_metadata import metadata_files, metadata_problems
from stores.bucket import Bucket, open_bucket
from stores.copies import MANIFEST, PARALLEL, Copied, Once, claimed_digest, copied_store, copy_all
from stores.errors import ConfigError, DamagedStoreError
from stores.manifest import ChunkFile, Manifest, read_manifest
from stores.progress import Progress
from stores.reader import find_store


def push(
    store: str | os.PathLike[str],
    url: str,
    *,
    parallel: int = PARALLEL,
    progress: Progress = lambda done, total: None,
) -> Copied:
    """Copy a finished store to s3://, gs:// or file://, `parallel` files at once, held in memory (16 MiB each).

    `progress` is called with bytes. Run again, it sends only what is missing or differs there. Raises
    `NotAStoreError`; `DamagedStoreError` when a local file differs from the manifest; `ConfigError` when the URL
    holds another store; `RemoteError`.
    """
    began = time.monotonic()
    store = find_store(store)
    manifest = read_manifest(store)
    content = (store / MANIFEST).read_bytes()
    for file in metadata_files(manifest.splits):
        for problem in metadata_problems(store, manifest, file):
            raise DamagedStoreError(problem)
    bucket = open_bucket(url, writing=True)
    finished = bucket.read(MANIFEST)
    if finished is not None:
        _check_same_store(bucket, finished, manifest)
    listed = bucket.files()
    withdraw = Once(lambda: bucket.remove(MANIFEST) if finished is not None else None)

    def send(name: str, expected: ChunkFile | None) -> int:
        content = _read_sound(store / name, expected)
        if bucket.holds(name, content, listed.get(name)):
            return 0
        withdraw()
        bucket.write(name, content)
        return len(content)

    copied = copy_all(manifest, send, parallel, progress)
    if withdraw.done or finished != content:
        bucket.write(MANIFEST, content)
    return copied_store(store, bucket, manifest, copied, began)


def _read_sound(path: Path, expected: ChunkFile | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedStoreError(f"{path}: cannot be read: {error.strerror}") from error
    if expected:
        if len(content) != expected.size:
            raise DamagedStoreError(f"{path}: {len(content)} bytes, expected {expected.size}")
        found = hashlib.sha256(content).hexdigest()
        if found != expected.sha256:
            raise DamagedStoreError(f"{path}: SHA-256 {found}, expected {expected.sha256}")
    return content


def _check_same_store(bucket: Bucket, finished: bytes, manifest: Manifest) -> None:
    held = claimed_digest(finished)
    if held != manifest.digest:
        what = f"the store {held}" if held else "something else"
        raise ConfigError(
            f"{bucket.url}: holds {what}, not {manifest.digest}: push to a new place, or empty this one"
        )
