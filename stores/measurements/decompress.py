"""Compressed files as text."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

from stores.errors import InputError, PinglmError
from stores.measurements.bzip2_reader import Bzip2Reader

BLOCK = 4 << 20
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}


def compression_of(start: bytes) -> str | None:
    """How a file that starts with these bytes is compressed: "gzip", "bz2", "zstd" or not."""
    return next((name for magic, name in _COMPRESSION.items() if start.startswith(magic)), None)


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
    except PinglmError:  # of the source itself, and some are `OSError`s
        raise
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
        except PinglmError:
            raise
        except self._error as error:
            raise OSError(str(error)) from error
        return data
