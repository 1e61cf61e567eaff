"""An input file as a stream of text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.inputs import InputFile
from stores.errors import InputError
from stores.measurements.decompress import compression_of, decompressed
from stores.measurements.regular_file import changed, check_unchanged, open_regular


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


@contextmanager
def open_input(file: InputFile) -> Iterator[InputStream]:
    """Open a file for one pass. Raises `InputError` when it cannot be opened."""
    with (
        open_regular(file.path) as descriptor,
        open(descriptor, "rb", buffering=0, closefd=False) as raw,
    ):
        yield InputStream(file, raw)
