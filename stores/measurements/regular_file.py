"""Opening the user's files: regular ones only, for a pipe or a device may never end, or never begin."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.errors import InputError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@contextmanager
def open_regular(path: str | Path) -> Iterator[int]:
    """Open a file for reading and yield its descriptor. Never waits for a writer.

    Raises `InputError` when it cannot be opened, or is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        check_regular(path, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def check_regular(path: str | Path, found: os.stat_result) -> None:
    """Raise `InputError` unless what was found at `path` is a regular file."""
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise InputError(
            f"{path}: is {_KINDS.get(kind, 'no file')}, expected a regular file: "
            "write what it gives to a file first"
        )


def changed(path: str | Path) -> InputError:
    """The error for an input that is no longer what it was when this run, or the run it continues, began."""
    return InputError(
        f"{path}: changed since this run began: remove the output folder and run again"
    )


def check_unchanged(path: str | Path, descriptor: int, size: int, mtime_ns: int) -> None:
    """Raise `changed` unless an open file has this size and time of its last change."""
    found = os.fstat(descriptor)
    if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
        raise changed(path)
