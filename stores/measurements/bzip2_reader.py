"""bzip2 as the command of that name reads it: streams one after another, some of them empty, and nothing else."""

from __future__ import annotations

import bz2
from typing import Protocol

_READ_AT_ONCE = 1 << 18


class Source(Protocol):
    """Where compressed bytes come from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        ...


class Bzip2Reader:
    """The text of a bzip2 file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stream = bz2.BZ2Decompressor()

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end. Raises `OSError` or `EOFError` for a damaged file."""
        pieces = []
        while size:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data or self._source.read(_READ_AT_ONCE)
                if not packed:
                    break
                self._stream = bz2.BZ2Decompressor()
            elif self._stream.needs_input:
                packed = self._source.read(_READ_AT_ONCE)
                if not packed:
                    raise EOFError("the file ends inside a stream")
            pieces.append(self._stream.decompress(packed, size))
            size -= len(pieces[-1])
        return b"".join(pieces)
