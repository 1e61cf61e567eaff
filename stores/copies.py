"""What copies of whole stores have in common, to a URL and from one.

Every file is checked against the manifest's digests where it arrives, and the manifest comes last, so a
half copied store is no store on either side. What has arrived is not sent again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from stores.array_metadata import metadata_files
from stores.bucket import Bucket
from stores.manifest import ChunkFile, Manifest
from stores.progress import Progress

MANIFEST = "zarr.json"
PARALLEL = 16
"""Files on their way at once."""


@dataclass(frozen=True)
class Copied:
    """A finished copy of a store."""

    store: Path
    url: str
    digest: str
    files: int
    bytes: int
    """Of all chunk files."""
    sent_files: int
    """Chunk files that were not there yet."""
    sent_bytes: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return {**asdict(self), "store": str(self.store)}


def claimed_digest(content: bytes) -> str | None:
    """The digest that a manifest claims, sound or not; `None` if it claims none."""
    found = re.search(rb'"digest": ?"([0-9a-f]{64})"', content)
    return found[1].decode() if found else None


class Once:
    """An action that is done by the first of several threads that ask for it; the others wait."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._lock = Lock()
        self.done = False

    def __call__(self) -> None:
        with self._lock:
            if not self.done:
                self._action()
                self.done = True


def copy_all(
    manifest: Manifest,
    copy: Callable[[str, ChunkFile | None], int],
    parallel: int,
    progress: Progress,
) -> list[tuple[str, int]]:
    """Copy every file but the manifest: (name, bytes) of the chunk files that were not there yet.

    The first error ends it; copies under way are waited for.
    """
    files: list[tuple[str, ChunkFile | None]] = [
        (name, None) for name in metadata_files(manifest.splits)
    ]
    files += manifest.files.items()
    total = sum(file.size for file in manifest.files.values())
    done, copied = 0, []
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(copy, *file): file for file in files}
        try:
            for future in as_completed(futures):
                name, expected = futures[future]
                if expected:
                    done += expected.size
                    if sent := future.result():
                        copied.append((name, sent))
                    progress(done, total)
                else:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return copied


def copied_store(
    store: Path, bucket: Bucket, manifest: Manifest, copied: list[tuple[str, int]], began: float
) -> Copied:
    """What a copy that began at `time.monotonic()` = `began` has come to."""
    return Copied(
        store=store,
        url=bucket.url,
        digest=manifest.digest,
        files=len(manifest.files),
        bytes=sum(file.size for file in manifest.files.values()),
        sent_files=len(copied),
        sent_bytes=sum(size for _, size in copied),
        seconds=time.monotonic() - began,
    )
