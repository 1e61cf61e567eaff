"""Input files: find those that the user means, and read them as streams."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.folder import WORK
from stores.errors import InputError

_SUFFIXES = {".json", ".ndjson", ".jsonl", ".txt", ".parquet"}
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPRESSED_SUFFIXES = {".gz", ".bz2", ".zst"}
_PARQUET = b"PAR1"

BLOCK = 4 << 20


@dataclass(frozen=True)
class InputFile:
    """A file that the user named, or that was found in a folder or by a glob."""

    path: str
    """Absolute."""
    name: str
    """Unique among the inputs: the base name, or relative to the folder (of the glob) named."""
    size: int
    mtime_ns: int
    kind: Literal["atlas", "parquet"]
    """Parquet by its first bytes or its suffix; anything else counts as RIPE Atlas JSON."""


def find_inputs(paths: Sequence[str | Path]) -> list[InputFile]:
    """The files meant by `paths`, which may be files, folders (searched recursively) and globs. Sorted by
    name, each file once.

    A file that is named is always taken. From a folder come *.json, *.ndjson, *.jsonl, *.txt and
    *.parquet, also with .gz, .bz2 or .zst, and other files that are compressed or begin with { or [
    (`find_left_out` returns the rest). Hidden files and output folders of pinglm are skipped.

    Raises `InputError` naming a path or glob that matches nothing, or a file that cannot be read.
    """
    files = _unique_names([pair for pair in _walk(paths) if pair[2]])
    if not files:
        raise InputError(
            f"{_join(paths)}: found no input files: expected RIPE Atlas JSON or Parquet"
        )
    return [_input_file(path, name) for name, path in sorted(files.items())]


def find_left_out(paths: Sequence[str | Path]) -> list[str]:
    """Names of the files in folders of `paths` that `find_inputs` does not take, sorted."""
    return sorted(_unique_names([pair for pair in _walk(paths) if not pair[2]]))


class InputStream:
    """A file being read: yields its text in blocks, and computes the digest of its bytes as stored on disk."""

    def __init__(self, file: InputFile, raw: Any) -> None:
        self._file = file
        self._raw = raw
        self._digest = hashlib.sha256()
        self.closed = False

    def blocks(self) -> Iterator[bytes]:
        """Yield the (decompressed) content in blocks of at most 4 MiB.

        Compression is detected by the first bytes, not by the name. Raises `InputError` when the file is
        cut off or damaged, or has changed since it was found.
        """
        compression = None
        try:
            found = os.fstat(self._raw.fileno())
            if (found.st_size, found.st_mtime_ns) != (self._file.size, self._file.mtime_ns):
                raise InputError(
                    f"{self._file.path}: changed since this run began: run the command again"
                )
            compression = _compression(os.pread(self._raw.fileno(), 4, 0))
            source: Any = self
            if compression:
                source = pa.CompressedInputStream(pa.PythonFile(self, mode="r"), compression)
            while block := source.read(BLOCK):
                yield block
        except (OSError, pa.ArrowException) as error:
            what = f"damaged or cut-off {compression} file" if compression else "cannot be read"
            raise InputError(f"{self._file.path}: {what}: {error}") from error

    @property
    def sha256(self) -> str:
        """Hex digest of the file's bytes, complete once `blocks` has ended."""
        return self._digest.hexdigest()

    def read(self, size: int) -> bytes:
        """Read raw bytes and add them to the digest (PyArrow's decompressor calls this)."""
        data: bytes = self._raw.read(size)
        self._digest.update(data)
        return data

    def close(self) -> None:
        """Does nothing: `open_input` closes the file."""


@contextmanager
def open_input(file: InputFile) -> Iterator[InputStream]:
    """Open a file for one pass. Raises `InputError` when it cannot be opened."""
    try:
        raw = open(file.path, "rb", buffering=0)  # noqa: SIM115, closed below
    except OSError as error:
        raise InputError(f"{file.path}: cannot be read: {error.strerror}") from error
    with raw:
        yield InputStream(file, raw)


def _compression(start: bytes) -> str | None:
    return next((name for magic, name in _COMPRESSION.items() if start.startswith(magic)), None)


def _walk(paths: Sequence[str | Path]) -> Iterator[tuple[str, str, bool]]:
    """Yield (absolute path, name, whether it is taken) of every file that `paths` reach."""
    for given in map(str, paths):
        if os.path.lexists(given):
            matches, root = [given], given
        else:
            matches = sorted(glob.glob(given, recursive=True))
            fixed = given[: min(map(given.find, filter(given.__contains__, "*?[")), default=0)]
            root = os.path.dirname(fixed) or "."
        if not matches:
            raise InputError(f"{given}: no such file or folder, and no file matches it as a glob")
        for match in matches:
            if not os.path.isdir(match):
                name = os.path.basename(match) if match == given else os.path.relpath(match, root)
                yield os.path.abspath(match), name, True
                continue
            for folder, folders, files in os.walk(match, onerror=_refuse):
                if WORK in folders and folder != match:
                    folders.clear()
                    continue
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for file in sorted(files):
                    if not file.startswith("."):
                        path = os.path.join(folder, file)
                        yield os.path.abspath(path), os.path.relpath(path, root), _is_taken(path)


def _is_taken(path: str) -> bool:
    """Whether a file in a folder looks like input."""
    stem, suffix = os.path.splitext(path.lower())
    if suffix in _COMPRESSED_SUFFIXES:
        suffix = os.path.splitext(stem)[1]
    if suffix in _SUFFIXES:
        return True
    start = _read_start(path, 512)
    packed = start.startswith(_PARQUET) or _compression(start) is not None
    return packed or start.lstrip()[:1] in (b"{", b"[")


def _unique_names(found: list[tuple[str, str, bool]]) -> dict[str, str]:
    """Paths by name; names shared by several files are extended by parent folders until they differ."""
    names = {path: name for path, name, _ in found}
    parts = 1
    while len(set(names.values())) < len(names):
        by_name: dict[str, list[str]] = {}
        for path, name in names.items():
            by_name.setdefault(name, []).append(path)
        parts += 1
        for same in by_name.values():
            if len(same) > 1:
                names.update({path: os.sep.join(path.split(os.sep)[-parts:]) for path in same})
    return {_printable(name): path for path, name in names.items()}


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _input_file(path: str, name: str) -> InputFile:
    is_parquet = _read_start(path, 4) == _PARQUET or path.lower().endswith(".parquet")
    stat = os.stat(path)
    kind: Literal["atlas", "parquet"] = "parquet" if is_parquet else "atlas"
    return InputFile(path, name, stat.st_size, stat.st_mtime_ns, kind)


def _read_start(path: str, size: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _join(paths: Sequence[str | Path]) -> str:
    return ", ".join(map(str, paths))
