"""Files that are whole or absent: temporary name, rename, and fsync before anything depends on them.

What others rely on as soon as its name is there goes through `open_synced`. The many files of a unit of
work do not: they are synced once, with `sync_file`, before the record that lists them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stores.errors import InputError, OutputError, PinglmError

_BLOCK = 1 << 20
_ALIGNMENT = 4096  # a page, and a multiple of every usual disk's blocks

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on a clean exit it is renamed to `path`.

    On any error the temporary file is removed and `path` is as it was. Makes missing parent folders.
    The file survives a killed process, but not a power loss before `sync_file`. Raises `OutputError`
    naming `path` when the system refuses (no space, no permission).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, PinglmError):
            raise OutputError(f"{path}: cannot write: {error.strerror or error}") from error
        raise


def start_writeback(path: Path) -> None:
    """Ask the system to start writing a file to disk now, so that `sync_file` has little left to do.

    Returns at once and guarantees nothing.
    """
    with suppress(OSError, AttributeError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # for pages not yet on disk, Linux takes this as: write them soon
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until both the file's bytes and its name are on disk. Raises `OutputError`."""
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"{path}: cannot be synced to disk: {error.strerror}") from error


def write_bytes(path: Path, data: Any) -> None:
    """Write a bytes-like object to `path`, whole or not at all, but not proof against a loss of power."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_past_cache(path: Path, data: memoryview) -> None:
    """`write_bytes` of data that nobody reads soon, straight from memory to disk where that is possible: filling
    fresh pages of the system's cache can cost more CPU time than making the data did.

    Possible on Linux if address and size of `data` are multiples of the file system's block, as those of `aligned`
    memory are. Waits for the disk, but guarantees nothing before `sync_file`.
    """
    with atomic_path(path) as temporary:
        with suppress(AttributeError, OSError):  # no such flag, or a file system that refuses it
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o666)
            try:
                written = 0
                while written < data.nbytes:
                    written += os.write(descriptor, data.cast("B")[written:])
                return
            finally:
                os.close(descriptor)
        temporary.write_bytes(data)  # says what is wrong, if that is not the flag


def aligned(size: int) -> NDArray[np.uint8]:
    """`size` bytes of memory, not cleared, that begin at a multiple of `_ALIGNMENT`: uint8 (size,)."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


@contextmanager
def open_synced(path: Path) -> Iterator[BinaryIO]:
    """A file to write: after a clean exit it is on disk under its name, and a loss of power at any moment
    leaves either the old file or the new one. Errors as `atomic_path`.

    The bytes are synced before the rename, because a name that reaches the disk first names an empty file.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def write_synced(path: Path, data: Any) -> None:
    """Write a bytes-like object to `path` as `open_synced` does."""
    with open_synced(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """`write_synced` of `value` as indented JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    # in a name that is no UTF-8, the replacement is JSON's own escape
    write_synced(path, text.encode(errors="backslashreplace"))


def parse_json(text: bytes) -> Any:
    """The value that JSON text stands for. Raises `ValueError` for anything else, also for nesting that is
    too deep to read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file, in order; empty when there is no such file.

    What comes after the last whole line is left out: its writer was killed, lost power, or is still
    writing. Raises `InputError` for a line in between that is not an object, naming it.
    """
    if not path.exists():
        return []
    objects: list[dict[str, Any]] = []
    unreadable = None  # number of the first such line
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            value = parse_json(line)
        except ValueError:
            unreadable = unreadable or number
            continue
        if unreadable or not isinstance(value, dict):
            raise InputError(
                f"{path}: line {unreadable or number} is not a JSON object: remove that line"
            )
        objects.append(value)
    return objects


def write_arrays(path: Path, arrays: NDArray[Any] | Mapping[str, NDArray[Any]]) -> None:
    """Write one array as .npy, or several as an uncompressed .npz, whole or not at all."""
    buffer = io.BytesIO()  # when the disk is full, NumPy's own write does not say so
    if isinstance(arrays, np.ndarray):
        np.save(buffer, arrays)
    else:
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getbuffer())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks of 1 MiB (about 1.5 GB/s per core)."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
