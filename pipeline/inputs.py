"""Input files: find those that the user means."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pipeline.folder import WORK
from stores.errors import InputError
from stores.measurements.decompress import compression_of
from stores.measurements.regular_file import open_regular
from stores.urls import is_url, without_secrets

if TYPE_CHECKING:
    from pipeline.remote.find import Found

_SUFFIXES = {".json", ".ndjson", ".jsonl", ".txt", ".parquet"}
_COMPRESSED_SUFFIXES = {".gz", ".bz2", ".zst"}
PARQUET = b"PAR1"
_ASKED_AT_ONCE = 16  # requests for what URLs lead to
_BEFORE_JSON = b"\xef\xbb\xbf\x1e \t\r\n"  # byte order mark, record separator, space


Kind = Literal["atlas", "parquet", "bigquery"]
"""Parquet by a file's first bytes or its suffix, and of these RIPE's BigQuery table by its columns; anything else
counts as RIPE Atlas JSON."""


@dataclass(frozen=True)
class InputFile:
    """A file that the user named, or that was found in a folder or by a glob."""

    path: str
    """Absolute."""
    name: str
    """Unique among the inputs: the base name, or relative to the folder (of the glob) named."""
    size: int
    mtime_ns: int
    kind: Kind

    @property
    def identity(self) -> list[Any]:
        """What tells this file, as it is now, from others, JSON-able."""
        return [self.name, self.size, self.mtime_ns]


@dataclass(frozen=True)
class RemoteInput(InputFile):
    """An input at a URL. `path` is what of the URL may be shown, and `mtime_ns` is 0.

    Its `repr` shows no secret and does not change when a URL is signed anew.
    """

    version: str
    """The ETag or, without one, the time of the last change that the server states; else empty."""
    url: str = field(repr=False)
    """As given, signature and all."""
    ranges: bool = field(repr=False)
    """Whether any bytes of it can be asked for. If not, only all of them from the start, and it has no pieces."""
    sized: bool = field(repr=False)
    """Whether the server says how many bytes it has; if not, `size` is 0."""

    @property
    def identity(self) -> list[Any]:
        """As for a local file; `version` has the place of the time."""
        return [self.name, self.size, self.version]


def find_inputs(paths: Sequence[str | Path]) -> list[InputFile]:
    """The files meant by `paths`, which may be files, folders (searched recursively) and globs, here or in a
    bucket (s3://, gs://), and files on a web server (http://, https://). Sorted by name, each file once.

    A file that is named is always taken. From a folder come *.json, *.ndjson, *.jsonl, *.txt and
    *.parquet, also with .gz, .bz2 or .zst, and other files that are compressed or begin with { or [
    (`find_left_out` returns the rest). Hidden files and output folders of pinglm are skipped. `**` in a
    glob also enters folders that are links, each of them once.

    Raises `InputError` naming a path or glob that matches nothing, or a file that cannot be read or is no
    regular file (in a folder or glob, pipes and devices are left out instead); `RemoteError` when a server
    cannot be reached or refuses.
    """
    local, remote = _survey(paths)
    taken = [pair for pair in local if pair[2]]
    taken += [(path, found.name, True) for path, found in remote.items() if found.taken]
    files = _unique_names(taken)
    if not files:
        raise InputError(
            f"{_join(paths)}: found no input files: expected RIPE Atlas JSON or Parquet"
        )
    asked = {name: remote[path] for name, path in files.items() if path in remote}
    known: dict[str, InputFile] = {}
    if asked:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            inputs = pool.map(lambda name: asked[name].as_input(name), asked)
            known = dict(zip(asked, inputs, strict=True))
    return [known.get(name) or _input_file(path, name) for name, path in sorted(files.items())]


def find_left_out(paths: Sequence[str | Path]) -> list[str]:
    """Names of the files in folders of `paths` that `find_inputs` does not take, sorted."""
    local, remote = _survey(paths)
    left_out = [pair for pair in local if not pair[2]]
    left_out += [(path, found.name, False) for path, found in remote.items() if not found.taken]
    return sorted(_unique_names(left_out))


def has_known_suffix(path: str) -> bool:
    """Whether a file of this name, perhaps compressed, is input by its name alone."""
    stem, suffix = os.path.splitext(path.lower())
    if suffix in _COMPRESSED_SUFFIXES:
        suffix = os.path.splitext(stem)[1]
    return suffix in _SUFFIXES


def is_compressed_by_name(path: str) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.lower().endswith(tuple(_COMPRESSED_SUFFIXES))


def _survey(
    paths: Sequence[str | Path],
) -> tuple[list[tuple[str, str, bool]], dict[str, Found]]:
    """What `_walk` yields for local paths, and what URLs lead to, by what of these may be shown."""
    urls = [path for path in map(str, paths) if is_url(path)]
    local = list(_walk([path for path in paths if not is_url(str(path))]))
    if not urls:
        return local, {}
    from pipeline.remote.find import walk  # local files need none of it

    return local, walk(urls)


def _walk(paths: Sequence[str | Path]) -> Iterator[tuple[str, str, bool]]:
    """Yield (absolute path, name, whether it is taken) of every file that `paths` reach."""
    for given in map(str, paths):
        if os.path.lexists(given):
            matches, root = [given], given
        else:
            matches = sorted(_expand(given))
            fixed = given[: min(map(given.find, filter(given.__contains__, "*?[")), default=0)]
            root = os.path.dirname(fixed) or "."
        if not matches:
            raise InputError(f"{given}: no such file or folder, and no file matches it as a glob")
        for match in matches:
            if not os.path.isdir(match):
                name = os.path.basename(match) if match == given else os.path.relpath(match, root)
                yield os.path.abspath(match), name, match == given or _is_regular(match)
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
    if not _is_regular(path):
        return False
    if has_known_suffix(path):
        return True
    start = _read_start(path, 512)
    packed = start.startswith(PARQUET) or compression_of(start) is not None
    return packed or start.lstrip(_BEFORE_JSON)[:1] in (b"{", b"[")


def _is_regular(path: str) -> bool:
    """Whether a file is no pipe, socket or device; true where that cannot be seen, as reading it will tell."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _expand(pattern: str) -> list[str]:
    """Paths that match a glob."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return glob.glob(pattern)
    at = parts.index("**")
    before, after = os.sep.join(parts[:at]), parts[at + 1 :]
    if not before:
        before = os.sep if at else os.curdir
    found = []
    for folder in _folders(path for path in glob.glob(before) if os.path.isdir(path)):
        if after:
            found += _expand(os.path.join(glob.escape(folder), *after))
        else:
            found += [folder, *glob.glob(os.path.join(glob.escape(folder), "*"))]
    return found


def _folders(roots: Iterable[str]) -> Iterator[str]:
    """`roots` and all folders in them that are not hidden, each once, however many links lead to it."""
    seen: set[tuple[int, int]] = set()
    waiting, links = list(roots), list[str]()
    while waiting or links:
        folder = (waiting or links).pop(0)
        try:
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(
                    (e for e in entries if not e.name.startswith(".")), key=attrgetter("name")
                )
        except OSError as error:
            _refuse(error)
        yield folder
        for entry in inside:
            if os.path.isdir(entry.path):  # unlike entry.is_dir(), false for a link to itself
                (links if entry.is_symlink() else waiting).append(entry.path)


def _unique_names(found: list[tuple[str, str, bool]]) -> dict[str, str]:
    """Paths by name, each file under its shortest path; names shared by several files are extended by parent
    folders until they differ."""
    shortest: dict[str, str] = {}  # path by what it leads to
    for path in sorted({path for path, _, _ in found}, key=lambda path: (path.count(os.sep), path)):
        shortest.setdefault(path if is_url(path) else os.path.realpath(path), path)
    kept = set(shortest.values())
    names = {path: name for path, name, _ in found if path in kept}
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
    """A name with bytes that are no UTF-8 as \\xff, and where it has a \\x of its own, \\x5cx: no two names
    become the same."""
    return os.fsencode(name).replace(rb"\x", rb"\x5cx").decode("utf-8", "backslashreplace")


def _input_file(path: str, name: str) -> InputFile:
    is_parquet = _read_start(path, 4) == PARQUET or path.lower().endswith(".parquet")
    found = os.stat(path)
    kind: Kind = "atlas"
    if is_parquet:
        from stores.measurements.bigquery import (
            holds_results,  # and PyArrow, which JSON does not need yet
        )

        kind = "bigquery" if holds_results(path) else "parquet"
    return InputFile(path, name, found.st_size, found.st_mtime_ns, kind)


def _read_start(path: str, size: int) -> bytes:
    with open_regular(path) as descriptor:
        return os.read(descriptor, size)


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _join(paths: Sequence[str | Path]) -> str:
    return ", ".join(without_secrets(path) if is_url(path) else path for path in map(str, paths))
