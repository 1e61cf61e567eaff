"""Inputs at URLs, read as if the connection never broke.

What has arrived is not asked for again: the next request begins where the last one broke off, on the condition
that the object is still the one that was found. A server that gives no ranges, or states neither ETag nor
time of the last change, is asked for everything again; what had been read then must have the same hash, and is
passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

from pipeline.inputs import RemoteInput
from pipeline.remote.tries import Tries
from stores.errors import TransientError
from stores.measurements.regular_file import changed

_FIRST_WINDOW, _LARGEST_WINDOW = 1 << 20, 64 << 20


def read_whole(file: RemoteInput) -> Iterator[bytes]:
    """All bytes in blocks of up to about 1 MiB; one of them is held at a time.

    Raises `InputError` when the object is not the one that was found, and `RemoteError` when it cannot be had.
    """
    if file.sized and (not file.size or (file.ranges and file.version)):
        return read_range(file, 0, file.size)
    return _read_from_start(file)


def read_range(file: RemoteInput, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start` to before `end`, in blocks of up to about 1 MiB. Raises as `read_whole`."""
    tries = Tries()
    while start < end:
        try:
            with _open(file, start, end) as blocks:
                for block in blocks:
                    start += len(block)
                    tries.progressed(len(block))
                    yield block
        except TransientError as error:
            tries.failed(error)


def _read_from_start(file: RemoteInput) -> Iterator[bytes]:
    """All bytes, from a server that can only be asked for all of them."""
    tries, read, seen = Tries(), 0, hashlib.sha256()
    while True:
        again, left = hashlib.sha256(), read
        try:
            with _open(file, 0, file.size if file.sized else None) as blocks:
                for block in blocks:
                    again.update(block[:left])
                    new = block[left:]
                    left -= len(block) - len(new)
                    if new:
                        if again.digest() != seen.digest():
                            raise changed(file.path)
                        again.update(new)
                        seen.update(new)
                        read += len(new)
                        tries.progressed(len(new))
                        yield new
            if left or again.digest() != seen.digest():
                raise changed(file.path)
            return
        except TransientError as error:
            tries.failed(error)


def confirm(file: RemoteInput) -> None:
    """Raise `InputError` when the object is not the one that was found, as far as its server says."""
    tries = Tries()
    while True:
        try:
            return _confirm_once(file)
        except TransientError as error:
            tries.failed(error)


class RemoteBytes:
    """An object whose bytes can be read from anywhere. Reading on from where the last read ended is one
    request for up to 64 MiB, reading elsewhere one for 1 MiB."""

    def __init__(self, file: RemoteInput) -> None:
        self._file = file
        self.size = file.size
        """In bytes."""
        self._position = 0
        self._window = _FIRST_WINDOW
        self._blocks: Iterator[bytes] = iter(())
        self._held = memoryview(b"")

    def read_at(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start`; none at the end. Raises as `read_whole`."""
        if start != self._position:
            self._position, self._window = start, _FIRST_WINDOW
            self._blocks, self._held = iter(()), memoryview(b"")
        while not self._held and self._position < self.size:
            block = next(self._blocks, None)
            if block is None:
                end = min(self.size, self._position + self._window)
                self._window = min(2 * self._window, _LARGEST_WINDOW)
                self._blocks = read_range(self._file, self._position, end)
            else:
                self._held = memoryview(block)
        piece, self._held = bytes(self._held[:size]), self._held[size:]
        self._position += len(piece)
        return piece


class RemoteStream:
    """An object as a file that is read from start to end."""

    def __init__(self, file: RemoteInput) -> None:
        self._blocks = read_whole(file)
        self._held = memoryview(b"")

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end. Raises as `read_whole`."""
        pieces = []
        while size:
            if not self._held:
                self._held = memoryview(next(self._blocks, b""))
                if not self._held:
                    break
            pieces.append(self._held[:size])
            self._held = self._held[size:]
            size -= len(pieces[-1])
        return b"".join(pieces)


def _open(
    file: RemoteInput, start: int, end: int | None
) -> AbstractContextManager[Iterator[bytes]]:
    if _is_on_web(file):
        from pipeline.remote.web import open_web

        return open_web(file, start, end)
    from pipeline.remote.objects import open_object

    assert end is not None
    return open_object(file, start, end)


def _confirm_once(file: RemoteInput) -> None:
    if _is_on_web(file):
        from pipeline.remote.web import confirm_web

        return confirm_web(file)
    from pipeline.remote.objects import confirm_object

    return confirm_object(file)


def _is_on_web(file: RemoteInput) -> bool:
    return file.path.startswith(("http://", "https://"))
