"""Ranges of objects in buckets, by `stores.bucket`. What fails is repeated by `pipeline.remote.reader`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from pipeline.inputs import RemoteInput
from stores.bucket import RETRIES, Bucket, RemoteFile, open_bucket
from stores.errors import TransientError
from stores.measurements.regular_file import changed


@cache
def bucket_of(root: str, retries: int = RETRIES) -> Bucket:
    """The bucket s3://NAME or gs://NAME, opened once in a process."""
    return open_bucket(root, retries=retries)


def first_bytes(path: str, listed: RemoteFile) -> bytes:
    """The first four bytes of an object, or as many as it has."""
    bucket, name = _place(path, RETRIES)
    if not listed.size:
        return b""
    blocks = bucket.open_range(name, 0, min(4, listed.size), listed.tag)
    if blocks is None:
        raise changed(path)
    return b"".join(blocks)


@contextmanager
def open_object(file: RemoteInput, start: int, end: int) -> Iterator[Iterator[bytes]]:
    """Bytes `start` to before `end`, in blocks of about 1 MiB.

    Raises `InputError` when the object is not the one that was found, `RemoteError` when it cannot be had,
    and `TransientError`, also while the blocks are read, when that may pass.
    """
    bucket, name = _place(file.path)
    blocks = bucket.open_range(name, start, end, file.version or None)
    if blocks is None:
        raise changed(file.path)
    yield _all(file, blocks, end - start)


def confirm_object(file: RemoteInput) -> None:
    """Raise `InputError` when the object is not the one that was found. Errors as `open_object`."""
    bucket, name = _place(file.path)
    found = bucket.find(name)
    if found is None or (found.size, found.tag or "") != (file.size, file.version):
        raise changed(file.path)


def _place(path: str, retries: int = 0) -> tuple[Bucket, str]:
    scheme, _, rest = path.partition("://")
    host, _, name = rest.partition("/")
    return bucket_of(f"{scheme}://{host}", retries), name


def _all(file: RemoteInput, blocks: Iterator[memoryview], left: int) -> Iterator[bytes]:
    for block in blocks:
        left -= len(block)
        yield bytes(block)
    if left:
        raise TransientError(f"{file.path}: the connection broke off")
