"""Standard input as an input file: it is read once, but a stage reads its input more than once, and a run that was
killed reads it again. So it is first written to DIR/.pinglm/stdin, as it comes, and deleted when the run ends.

A rerun is given it anew. Only if it is the same to the byte does the run go on, and else it is refused as with any
other input that changed: what tells files apart is their name, size and time, and the time of this file is made
from its content.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.folder import WORK, open_folder
from stores.errors import InputError, PinglmError
from stores.files import atomic_path

STDIN = "-"
_NAME = "stdin"
_BLOCK = 1 << 20
_FIRST_NS = 10**18  # of a file's time: from 2001 to 2033, which any file system can hold


@contextmanager
def spooled(inputs: Sequence[str], out: Path) -> Iterator[list[str]]:
    """`inputs`, with a file in the output folder `out` in place of `STDIN`, for the length of the block.

    Raises `InputError` when standard input is a terminal, empty or unreadable; what `open_folder` raises; and
    `OutputError` when there is no space for it.
    """
    if STDIN not in inputs:
        yield list(inputs)
        return
    file = out / WORK / _NAME
    try:
        with open_folder(out):
            _write(file)
        yield [str(file) if given == STDIN else given for given in inputs]
    finally:
        with suppress(PinglmError), open_folder(out):  # in use: then it is another process's
            file.unlink(missing_ok=True)


def _write(file: Path) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            "standard input: is a terminal, expected results: pipe them into --input -"
        )
    digest = hashlib.sha256()
    with atomic_path(file) as temporary:
        with open(temporary, "wb") as spool:
            while block := _read():
                digest.update(block)
                spool.write(block)
            size = spool.tell()
        if not size:
            raise InputError("standard input: is empty, expected results: did what writes it fail?")
        time = _FIRST_NS + int.from_bytes(digest.digest()[:8]) % _FIRST_NS
        os.utime(temporary, ns=(time, time))


def _read() -> bytes:
    try:
        return sys.stdin.buffer.read(_BLOCK)
    except OSError as error:
        raise InputError(f"standard input: cannot be read: {error.strerror}") from error
