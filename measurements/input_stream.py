"""An input file, and its text as a stream."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from measurements.bzip2_reader import Bzip2Reader
from measurements.regular_file import changed, check_unchanged, open_regular
from stores.errors import InputError

BLOCK = 4 << 20
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}

Kind = Literal["atlas", "parquet", "bigquery"]
"""Parquet by a file's first bytes or its suffix, and of these RIPE's BigQuery table by its columns; anything else
counts as RIPE Atlas JSON."""


@dataclass(frozen=True)
class InputFile:
    """A file that the user named, or that was found in a folder or by a glob."""

    path: str
    """Absolute."""
    name: str
    """Unique among the inputs: the base name, or relative to the folder (of the glob) named."""
    size: int
    mtime_ns: int
    kind: Kind


def compression_of(start: bytes) -> str | None:
    """How a file that starts with these bytes is compressed: "gzip", "bz2", "zstd" or not."""
    return next((name for magic, name in _COMPRESSION.items() if start.startswith(magic)), None)


class InputStream:
    """A file being read: yields its text in blocks, and computes the digest of its bytes as stored on disk."""

    def __init__(self, file: InputFile, raw: Any) -> None:
        self._file = file
        self._raw = raw
        self._digest = hashlib.sha256()
        self._size = 0
        self.closed = False

    def blocks(self) -> Iterator[bytes]:
        """Yield the (decompressed) content in blocks of at most 4 MiB.

        Compression is detected by the first bytes, not by the name. Raises `InputError` when the file is
        cut off or damaged, or has changed since it was found, also when it does so while it is read.
        """
        self._check_unchanged()
        try:
            compression = compression_of(os.pread(self._raw.fileno(), 4, 0))
            yield from decompressed(self, compression, self._file.path)
        except InputError:
            self._check_unchanged()
            raise
        except OSError as error:
            raise InputError(f"{self._file.path}: cannot be read: {error}") from error
        self._check_unchanged()
        if self._size != self._file.size:
            raise changed(self._file.path)

    @property
    def sha256(self) -> str:
        """Hex digest of the file's bytes, complete once `blocks` has ended."""
        return self._digest.hexdigest()

    def read(self, size: int) -> bytes:
        """Read raw bytes and add them to the digest (the decompressors call this)."""
        data: bytes = self._raw.read(size)
        self._digest.update(data)
        self._size += len(data)
        return data

    def close(self) -> None:
        """Does nothing: `open_input` closes the file."""

    def _check_unchanged(self) -> None:
        check_unchanged(self._file.path, self._raw.fileno(), self._file.size, self._file.mtime_ns)


def decompressed(source: Any, compression: str | None, name: str) -> Iterator[bytes]:
    """The text of a binary file, in blocks of at most 4 MiB. `compression` is that of `compression_of`.

    Raises `InputError` naming `name` when the file is cut off or damaged.
    """
    try:
        if compression == "gzip":
            source = gzip.GzipFile(
                fileobj=source, mode="rb"
            )  # takes zeros at the end: PyArrow does not
        elif compression == "bz2":
            source = Bzip2Reader(source)  # takes empty streams: PyArrow does not
        elif compression:
            source = _ZstdReader(source)
        while block := source.read(BLOCK):
            yield block
    except (OSError, EOFError, zlib.error) as error:
        what = f"damaged or cut-off {compression} file" if compression else "cannot be read"
        raise InputError(f"{name}: {what}: {error}") from error


class _ZstdReader:
    """The text of a zstd file."""

    def __init__(self, source: Any) -> None:
        import pyarrow as pa  # not for other files: what only reads CSV does without PyArrow

        self._error = pa.ArrowException
        self._stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end. Raises `OSError` for a damaged file."""
        try:
            data: bytes = self._stream.read(size)
        except self._error as error:
            raise OSError(str(error)) from error
        return data


@contextmanager
def open_input(file: InputFile) -> Iterator[InputStream]:
    """Open a file for one pass. Raises `InputError` when it cannot be opened."""
    with (
        open_regular(file.path) as descriptor,
        open(descriptor, "rb", buffering=0, closefd=False) as raw,
    ):
        yield InputStream(file, raw)
