"""A folder of downloads: one file for each measurement and slice of time, whole or absent.

    DIR/1001-20240101T000000Z-20240102T000000Z.ndjson   results from the first second to before the last
    DIR/.fetch/asked.json                               `Asked`: from where, and of which probes
    DIR/.fetch/lock                                     held while a process downloads

A file's name says what is in it, so what is here is not asked for again, and other measurements and times may be
added. Other probes, or another server, may not: the files would not say which of them they are from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.fetch.api import read_slice
from pipeline.fetch.question import Question, Slice
from pipeline.records import Record, read_json, to_json
from pipeline.remote.tries import Tries
from stores.errors import ConfigError, TransientError
from stores.files import TEMPORARY_SUFFIX, open_synced, write_json
from stores.folder_lock import claim_folder

WORK = ".fetch"
ASKED = "asked.json"

Progress = Callable[[int, int, int], None]
"""Called as progress(slices done, slices in total, bytes of results so far)."""


class Asked(Record, frozen=True):
    """Where all files of a folder are from."""

    url: str
    probes: tuple[str, ...]
    """All of them if empty."""


@dataclass(frozen=True)
class Fetched:
    """What a run added to a folder."""

    folder: str
    files: int
    results: int
    bytes: int
    files_before: int
    """Those that were here before, of these or other measurements and times."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def fetch(question: Question, folder: Path, key: str, progress: Progress) -> Fetched:
    """Download what is missing of the answer to a question into a folder; `key` is an API key, or empty.

    Slices that are whole stay when one fails or the process is killed, and the next run goes on after them.
    Holds some 256 KiB of results at a time, or as much as the longest line. Raises `ConfigError` for a folder
    with other probes or from another server, or in use; `OutputError` when files cannot be written;
    `RemoteError` when the server refuses, or keeps failing.
    """
    with claim_folder(
        folder,
        marker=WORK,
        lock=f"{WORK}/lock",
        foreign="holds something other than results that were fetched: choose an empty or a new folder",
        busy="another pinglm process is fetching into this folder",
    ):
        _note(Asked(question.url, question.probes), folder)
        for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        here = [part for path in folder.iterdir() if (part := Slice.of_file(path.name))]
        todo = question.missing(here)
        results = size = 0
        progress(0, len(todo), size)
        for done, part in enumerate(todo):
            before = size

            def show(read: int, done: int = done, before: int = before) -> None:
                progress(done, len(todo), before + read)

            count, written = _download(question, part, folder, key, show)
            results, size = results + count, size + written
            progress(done + 1, len(todo), size)
    return Fetched(str(folder), len(todo), results, size, len(here))


def _note(asked: Asked, folder: Path) -> None:
    """Record where the folder's files are from, or compare. Raises `ConfigError`."""
    path = folder / WORK / ASKED
    if not path.exists():
        write_json(path, to_json(asked))
        return
    before = read_json(path, Asked)
    for name, was, now in (
        ("from", before.url, asked.url),
        ("with --probes", _words(before.probes), _words(asked.probes)),
    ):
        if was != now:
            raise ConfigError(
                f"{folder}: its files were fetched {name} {was}, not {now}: use the same, or another --out"
            )


def _words(probes: tuple[str, ...]) -> str:
    return ",".join(probes) or "of all"


def _download(
    question: Question, part: Slice, folder: Path, key: str, show: Callable[[int], None]
) -> tuple[int, int]:
    """Write the file of a slice; return the numbers of its results and bytes. What breaks off begins anew, for
    the API gives no ranges."""
    tries, furthest = Tries(), 0
    while True:
        try:
            with open_synced(folder / part.file) as file:
                results = size = 0
                for lines, count in read_slice(question, part, key):
                    file.write(lines)
                    results, size = results + count, size + len(lines)
                    if size > furthest:
                        tries.progressed(size - furthest)
                        furthest = size
                    show(size)
            return results, size
        except TransientError as error:
            tries.failed(error)
