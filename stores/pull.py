"""Copies a store from a URL, into a folder or into the cache.

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
from collections.abc import Callable
from pathlib import Path

from stores.array_metadata import metadata_files, metadata_problems
from stores.bucket import Bucket, open_bucket
from stores.copies import (
    MANIFEST,
    PARALLEL,
    Copied,
    Once,
    claimed_digest,
    copied_store,
    copy_all,
)
from stores.errors import (
    ConfigError,
    DamagedStoreError,
    NotAStoreError,
    OutputError,
    PinglmError,
    RemoteError,
)
from stores.files import sha256_file, sync_file, write_synced
from stores.folder_lock import claim_folder, take_turn
from stores.layout import MODES, WITH_VALIDATION
from stores.manifest import UNFINISHED_PULL, ChunkFile, Manifest, parse_manifest
from stores.progress import Progress
from stores.reader import TokenStore

_ATTEMPTS = 3  # for a file whose connection breaks off, or that arrives with other bytes
_METADATA_BYTES = 1 << 20  # more than any array's zarr.json has
_CHUNK_FILE = re.compile(
    f"({'|'.join(WITH_VALIDATION)})/({'|'.join(MODES)})/(tokens/c/[0-9]+/0|(length|measurements)/c/0)"
)


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
    _check_same_store(store / MANIFEST, store, bucket, manifest)  # before anything is put beside it
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
    return copied_store(store, bucket, manifest, copied, began)


def cached(
    url: str,
    *,
    progress: Progress = lambda done, total: None,
    waiting: Callable[[str], object] = lambda holder: None,
) -> tuple[Path, Copied | None]:
    """The local copy of the store at a URL, pulled first if it is not there: its path, and what was pulled.

    It lies in XDG_CACHE_HOME (~/.cache) under the digest of the store, so what a URL holds may change. One that
    is there is not hashed again. Of several processes that ask for it at once, one pulls; the others call
    `waiting` with its name ("process 123 on node7"), and take over if it dies. Errors as `pull`, and `ConfigError`
    when the one that pulls does not get on for half an hour.
    """
    bucket = open_bucket(url)
    _, manifest = _remote_manifest(bucket)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "pinglm" / "stores" / f"{manifest.digest}.zarr"
    if _holds(path, manifest):
        return path, None
    with take_turn(path.with_suffix(".lock"), waiting=waiting) as get_on:
        if _holds(path, manifest):  # now
            return path, None

        def show(done: int, total: int) -> None:
            get_on()
            progress(done, total)

        return path, pull(url, path, progress=show)


def _holds(path: Path, manifest: Manifest) -> bool:
    """Whether there is this store, whole as far as its sizes tell."""
    try:
        return TokenStore.open(path).digest == manifest.digest
    except (NotAStoreError, DamagedStoreError):
        return False  # pulling continues, or mends


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
    _check_same_store(work / MANIFEST, store, bucket, manifest)
    for part in work.glob("part-*"):
        part.unlink()
    write_synced(work / MANIFEST, content)
    _check_space(store, manifest)
    withdraw = Once(lambda: (store / MANIFEST).unlink(missing_ok=True))

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

    copied = copy_all(manifest, receive, parallel, progress)
    if not (store / MANIFEST).is_file():
        for name in [
            *metadata_files(manifest.splits),
            *manifest.files,
        ]:  # the names, too, before the manifest's
            sync_file(store / name)
        write_synced(store / MANIFEST, content)
    return copied


def _check_same_store(begun: Path, store: Path, bucket: Bucket, manifest: Manifest) -> None:
    """Raise `ConfigError` if a manifest in the folder is that of another store than the URL's."""
    if begun.is_file() and (held := claimed_digest(begun.read_bytes())) != manifest.digest:
        raise ConfigError(
            f"{store}: holds or began the store {held}, but {bucket.url} is {manifest.digest}: "
            "pull into a new folder"
        )


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
