"""A file that is hashed block by block as it is read, so that it can be told whether all readers read the
same bytes: those of which the manifest states the hash."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pipeline.inputs import RemoteInput
from pipeline.records import Record
from stores.errors import InputError
from stores.measurements.regular_file import changed, open_regular

BLOCK = 1 << 20
_HELD_BLOCKS = 32  # a row group is read column by column, or from all its columns in turn

Blocks = dict[int, str]
"""SHA-256 of some blocks of a file, by number. A block is 1 MiB, only the last is shorter."""


class FileDigest(Record, frozen=True):
    """A whole file, as `hash_file` read it."""

    size: int
    sha256: str
    blocks: Blocks

    def holds(self, size: int, blocks: Blocks) -> bool:
        """Whether a reader that found `size` bytes and read these `blocks` read this very content."""
        return size == self.size and blocks.items() <= self.blocks.items()


class Source(Protocol):
    """Bytes that can be read from anywhere."""

    size: int

    def read_at(self, start: int, size: int, /) -> bytes:
        """Up to `size` bytes from `start`; none at the end."""
        ...


class LocalBytes:
    """The bytes of an open file."""

    def __init__(self, path: str | Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_at(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start`; none at the end. Raises `InputError` when they cannot be read."""
        try:
            return os.pread(self._descriptor, size, start)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read: {error.strerror}") from error


class HashedFile:
    """An open file for PyArrow's readers and `bz2`. It holds the blocks read last, 32 MiB of them."""

    def __init__(self, path: str | Path, source: Source) -> None:
        self.path = path
        self._source = source
        self._position = 0
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self.size = source.size
        self.blocks: Blocks = {}
        """Of every block that was read."""
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer only at the end of the file.

        Raises `InputError` when the file has shrunk, or a block is not what it was when it was read before.
        """
        start = self._position
        end = self.size if size < 0 else min(self.size, start + size)
        pieces = []
        while start < end:
            number, offset = divmod(start, BLOCK)
            pieces.append(self._block(number)[offset : offset + end - start])
            start += len(pieces[-1])
        self._position = max(self._position, end)
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset`, from the start, here or the end of the file; return it from the start."""
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next `read` begins."""
        return self._position

    def close(self) -> None:
        """Does nothing: `open_hashed` closes the file."""

    def _block(self, number: int) -> bytes:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        start, end = number * BLOCK, min(self.size, (number + 1) * BLOCK)
        block = b""
        while piece := self._source.read_at(start + len(block), end - start - len(block)):
            block += piece
        digest = hashlib.sha256(block).hexdigest()
        if len(block) < end - start or self.blocks.setdefault(number, digest) != digest:
            raise changed(self.path)
        self._held[number] = block
        if len(self._held) > _HELD_BLOCKS:
            self._held.popitem(last=False)
        return block


@contextmanager
def open_hashed(place: Path | RemoteInput) -> Iterator[HashedFile]:
    """Open a file. Raises `InputError` when it cannot be opened; one at a URL is not asked for yet."""
    if isinstance(place, RemoteInput):
        from pipeline.remote.reader import RemoteBytes

        yield HashedFile(place.path, RemoteBytes(place))
        return
    with open_regular(place) as descriptor:
        yield HashedFile(place, LocalBytes(place, descriptor))


def hash_file(place: Path | RemoteInput) -> FileDigest:
    """Read a file from beginning to end. Raises `InputError` when it cannot be read, and `RemoteError` when its
    server does not give it."""
    with open_hashed(place) as file:
        return hash_all(file)


def hash_all(file: HashedFile) -> FileDigest:
    """Read an open file from beginning to end."""
    file.seek(0)
    whole = hashlib.sha256()
    while block := file.read(BLOCK):
        whole.update(block)
    return FileDigest(file.size, whole.hexdigest(), file.blocks)
