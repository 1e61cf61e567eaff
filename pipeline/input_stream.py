"""An input file as a stream of text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pipeline.inputs import InputFile, RemoteInput
from stores.errors import InputError, PinglmError
from stores.measurements.bzip2_reader import Source
from stores.measurements.decompress import compression_of, decompressed
from stores.measurements.regular_file import changed, check_unchanged, open_regular


class InputStream:
    """A file being read: yields its text in blocks, and computes the digest of its bytes as stored on disk, or
    on a server."""

    def __init__(self, file: InputFile, raw: Source, check: Callable[[], None]) -> None:
        """`check` raises `InputError` when the file is not what it was when it was found."""
        self._file = file
        self._raw = raw
        self._check = check
        self._start = b""  # read, but not asked for yet
        self._digest = hashlib.sha256()
        self._size = 0
        self.closed = False

    def blocks(self) -> Iterator[bytes]:
        """Yield the (decompressed) content in blocks of at most 4 MiB.

        Compression is detected by the first bytes, not by the name. Raises `InputError` when the file is
        cut off or damaged, or has changed since it was found, also when it does so while it is read;
        `RemoteError` when its server does not give it.
        """
        try:
            self._start = self._raw.read(4)
            compression = compression_of(self._start)
            yield from decompressed(self, compression, self._file.path)
        except InputError:
            self._check()
            raise
        except PinglmError:
            raise
        except OSError as error:
            raise InputError(f"{self._file.path}: cannot be read: {error}") from error
        self._check()
        sized = not isinstance(self._file, RemoteInput) or self._file.sized
        if sized and self._size != self._file.size:
            raise changed(self._file.path)

    @property
    def sha256(self) -> str:
        """Hex digest of the file's bytes, complete once `blocks` has ended."""
        return self._digest.hexdigest()

    @property
    def size(self) -> int:
        """The file's bytes, all of them once `blocks` has ended."""
        return self._size

    def read(self, size: int) -> bytes:
        """Read raw bytes and add them to the digest (the decompressors call this)."""
        start, self._start = self._start[:size], self._start[size:]
        data = start + self._raw.read(size - len(start))
        self._digest.update(data)
        self._size += len(data)
        return data

    def close(self) -> None:
        """Does nothing: `open_input` closes the file."""


@contextmanager
def open_input(file: InputFile) -> Iterator[InputStream]:
    """Open a file for one pass. Raises `InputError` when it cannot be opened, or has changed."""
    if isinstance(file, RemoteInput):
        from pipeline.remote.reader import RemoteStream, confirm

        yield InputStream(file, RemoteStream(file), partial(confirm, file))
        return
    with (
        open_regular(file.path) as descriptor,
        open(descriptor, "rb", buffering=0, closefd=False) as raw,
    ):
        check = partial(check_unchanged, file.path, descriptor, file.size, file.mtime_ns)
        check()
        yield InputStream(file, raw, check)
