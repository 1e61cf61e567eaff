"""Copies of whole stores: to a URL, from a URL, and from a URL into the cache.

Every file is checked against the manifest's digests where it arrives, and the manifest comes last, so a
half copied store is no store on either side. What has arrived is not sent again.

    STORE/.pull/lock            held while a process pulls into STORE
    STORE/.pull/zarr.json       the manifest of the store on its way
    STORE/.pull/part-…          files on their way; renamed into place once they are sound
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from stores.array_metadata import metadata_files, metadata_problems
from stores.bucket import Bucket, open_bucket
from stores.errors import (
    ConfigError,
    DamagedStoreError,
    NotAStoreError,
    OutputError,
    PinglmError,
    RemoteError,
)
from stores.files import sha256_file, sync_file, write_bytes
from stores.folder_lock import claim_folder
from stores.layout import MODES, SPLITS
from stores.manifest import UNFINISHED_PULL, ChunkFile, Manifest, parse_manifest, read_manifest
from stores.progress import Progress
from stores.reader import TokenStore, find_store

MANIFEST = "zarr.json"
PARALLEL = 16

_ATTEMPTS = 3  # for a file whose connection breaks off, or that arrives with other bytes
_METADATA_BYTES = 1 << 20  # more than any array's zarr.json has
_CHUNK_FILE = re.compile(
    f"({'|'.join(SPLITS)})/({'|'.join(MODES)})/(tokens/c/[0-9]+/0|(length|measurements)/c/0)"
)


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
    for file in metadata_files():
        _raise_first(metadata_problems(store, manifest, file))
    bucket = open_bucket(url, writing=True)
    finished = bucket.read(MANIFEST)
    if finished is not None:
        _check_same_store(bucket, finished, manifest)
    listed = bucket.files()
    withdraw = _Once(lambda: bucket.remove(MANIFEST) if finished is not None else None)

    def send(name: str, expected: ChunkFile | None) -> int:
        content = _read_sound(store / name, expected)
        if bucket.holds(name, content, listed.get(name)):
            return 0
        withdraw()
        bucket.write(name, content)
        return len(content)

    copied = _copy_all(manifest, send, parallel, progress)
    if withdraw.done or finished != content:
        bucket.write(MANIFEST, content)
    return _copied(store, bucket, manifest, copied, began)


def pull(
    url: str,
    store: str | os.PathLike[str],
    *,
    parallel: int = PARALLEL,
    progress: Progress = lambda done, total: None,
) -> Copied:
    """Copy a store from s3://, gs://, file://, http:// or https:// into the folder `store`.

    `parallel` files at once, in blocks of 1 MiB; `progress` is called with bytes. Run again, it fetches only files
    that are missing or damaged here, which it hashes to know. Raises `NotAStoreError` when the URL has no finished
    manifest, `DamagedStoreError` naming what is missing or differs there, `ConfigError` when the folder holds or
    began another store, `OutputError` when it cannot be written or the disk is too small, `RemoteError`.
    """
    began = time.monotonic()
    store = Path(store)
    bucket = open_bucket(url)
    content, manifest = _remote_manifest(bucket)
    work = store / UNFINISHED_PULL
    finished = (store / MANIFEST).is_file()
    with claim_folder(
        store,
        marker=MANIFEST if finished else UNFINISHED_PULL,
        lock=f"{UNFINISHED_PULL}/lock",
        foreign="holds something else: pull into a new folder",
        busy="another process pulls into it: wait until it is done",
    ):
        try:
            copied = _pull_into(store, bucket, content, manifest, parallel, progress)
        except OSError as error:
            if isinstance(error, PinglmError):
                raise
            raise OutputError(
                f"{error.filename or store}: cannot write: {error.strerror or error}"
            ) from error
        shutil.rmtree(work, ignore_errors=True)
    return _copied(store, bucket, manifest, copied, began)


def cached(
    url: str, *, progress: Progress = lambda done, total: None
) -> tuple[Path, Copied | None]:
    """The local copy of the store at a URL, pulled first if it is not there: its path, and what was pulled.

    It lies in XDG_CACHE_HOME (~/.cache) under the digest of the store, so what a URL holds may change. One that
    is there is not hashed again. Errors as `pull`.
    """
    bucket = open_bucket(url)
    _, manifest = _remote_manifest(bucket)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "pinglm" / "stores" / f"{manifest.digest}.zarr"
    try:
        if TokenStore.open(path).digest == manifest.digest:
            return path, None
    except (NotAStoreError, DamagedStoreError):
        pass  # pulling continues, or mends
    return path, pull(url, path, progress=progress)


# --- Pulling ----------------------------------------------------------------------------------------


def _remote_manifest(bucket: Bucket) -> tuple[bytes, Manifest]:
    """The manifest at a URL, as bytes and as what they say. Its file names lead nowhere but into the store."""
    content = bucket.read(MANIFEST)
    if content is None:
        raise NotAStoreError(
            f"{bucket.url}: no finished manifest, so there is no store: `push` (again) to finish it"
        )
    manifest = parse_manifest(content, bucket.where(MANIFEST))
    for name in manifest.files:
        if not _CHUNK_FILE.fullmatch(name):
            raise DamagedStoreError(
                f"{bucket.where(MANIFEST)}: lists {name!r}, which is no file of a store"
            )
    return content, manifest


def _pull_into(
    store: Path,
    bucket: Bucket,
    content: bytes,
    manifest: Manifest,
    parallel: int,
    progress: Progress,
) -> list[tuple[str, int]]:
    work = store / UNFINISHED_PULL
    for begun in (store / MANIFEST, work / MANIFEST):
        if begun.is_file() and (held := _claimed_digest(begun.read_bytes())) != manifest.digest:
            raise ConfigError(
                f"{store}: holds or began the store {held}, but {bucket.url} is {manifest.digest}: "
                "pull into a new folder"
            )
    for part in work.glob("part-*"):
        part.unlink()
    write_bytes(work / MANIFEST, content)
    _check_space(store, manifest)
    withdraw = _Once(lambda: (store / MANIFEST).unlink(missing_ok=True))

    def receive(name: str, expected: ChunkFile | None) -> int:
        path = store / name
        if expected is None:
            sound = path.is_file() and not metadata_problems(store, manifest, name)
        else:
            sound = _is_sound(path, expected)
        if sound:
            return 0
        withdraw()
        return _fetch(bucket, manifest, name, store)

    copied = _copy_all(manifest, receive, parallel, progress)
    if not (store / MANIFEST).is_file():
        write_bytes(store / MANIFEST, content)
        sync_file(store / MANIFEST)
    return copied


def _check_space(store: Path, manifest: Manifest) -> None:
    def there(name: str, size: int) -> bool:
        path = store / name
        return path.is_file() and path.stat().st_size == size

    needed = sum(f.size for name, f in manifest.files.items() if not there(name, f.size))
    free = shutil.disk_usage(store).free
    if needed > free:
        raise OutputError(
            f"{store}: the rest of the store needs {needed:,} bytes, but the disk has only {free:,} free: "
            "make room, and run the same command again"
        )


def _fetch(bucket: Bucket, manifest: Manifest, name: str, store: Path) -> int:
    """Get a file, check it, and put it into place; tried a few times where the network may be at fault.

    Returns its size.
    """
    expected = manifest.files.get(name)
    path = store / name
    part = store / UNFINISHED_PULL / f"part-{name.replace('/', '-')}"
    for attempt in range(1, _ATTEMPTS + 1):
        blocks = bucket.open(name)
        if blocks is None:
            raise DamagedStoreError(f"{bucket.where(name)}: missing there: push the store again")
        limit = _METADATA_BYTES if expected is None else expected.size
        digest, size = hashlib.sha256(), 0
        try:
            with open(part, "wb") as file:
                for block in blocks:
                    size += len(block)
                    if size > limit:
                        break
                    digest.update(block)
                    file.write(block)
        except RemoteError:
            if attempt == _ATTEMPTS:
                raise
            continue
        if size > limit:
            problem = f"more than the expected {limit} bytes"
        elif expected and size != expected.size:
            problem = f"{size} bytes, expected {expected.size}"
        elif expected and digest.hexdigest() != expected.sha256:
            problem = f"SHA-256 {digest.hexdigest()}, expected {expected.sha256}"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            sync_file(part)
            os.replace(part, path)
            problems = [] if expected else metadata_problems(store, manifest, name)
            if not problems:
                return size
            path.unlink()
            problem = problems[0].removeprefix(f"{path}: ")
    raise DamagedStoreError(f"{bucket.where(name)}: {problem}: push the store again")


def _is_sound(path: Path, expected: ChunkFile) -> bool:
    try:
        return path.stat().st_size == expected.size and sha256_file(path) == expected.sha256
    except FileNotFoundError:
        return False


# --- Pushing ----------------------------------------------------------------------------------------


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
    held = _claimed_digest(finished)
    if held != manifest.digest:
        what = f"the store {held}" if held else "something else"
        raise ConfigError(
            f"{bucket.url}: holds {what}, not {manifest.digest}: push to a new place, or empty this one"
        )


def _claimed_digest(content: bytes) -> str | None:
    """The digest that a manifest claims, sound or not; `None` if it claims none."""
    found = re.search(rb'"digest": ?"([0-9a-f]{64})"', content)
    return found[1].decode() if found else None


# --- Both -------------------------------------------------------------------------------------------


class _Once:
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


def _copy_all(
    manifest: Manifest,
    copy: Callable[[str, ChunkFile | None], int],
    parallel: int,
    progress: Progress,
) -> list[tuple[str, int]]:
    """Copy every file but the manifest: (name, bytes) of the chunk files that were not there yet.

    The first error ends it; copies under way are waited for.
    """
    files: list[tuple[str, ChunkFile | None]] = [(name, None) for name in metadata_files()]
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


def _copied(
    store: Path, bucket: Bucket, manifest: Manifest, copied: list[tuple[str, int]], began: float
) -> Copied:
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


def _raise_first(problems: Iterable[str]) -> None:
    for problem in problems:
        raise DamagedStoreError(problem)
