"""The output folder: whose it is, who works in it, and which stages are finished.

    DIR/.pinglm/lock                     held while a process works here
    DIR/.pinglm/<stage>/options.json     what an unfinished stage was started with
    DIR/.pinglm/<stage>/units/*.json     its finished units (`pipeline.units`)
    DIR/.pinglm/<stage>/...              its scratch files
    DIR/.pinglm/<stage>.json             a finished stage's record, written last

A stage that runs again with the same options continues or is already finished; with other options it
is refused, so that one folder never mixes two runs.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.errors import ConfigError, OutputError
from stores.files import write_json

WORK = ".pinglm"


@dataclass(frozen=True)
class OutputFolder:
    """A folder that `open_folder` has locked for this process."""

    path: Path

    def scratch(self, stage: str) -> Path:
        """Scratch folder of an unfinished stage."""
        return self.path / WORK / stage

    def begin(self, stage: str, options: dict[str, Any]) -> dict[str, Any] | None:
        """The stage's record if it is finished with these `options` (JSON-able), else `None` after
        noting them. Raises `ConfigError` when the folder was made with others, naming the first."""
        record = self.record(stage)
        if record is not None:
            self._compare(stage, record["options"], options)
            return record
        noted = self.scratch(stage) / "options.json"
        if noted.exists():
            self._compare(stage, json.loads(noted.read_bytes()), options)
        else:
            write_json(noted, options)
        return None

    def finish(self, stage: str, options: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        """Write the record (the stage counts as finished from here on), then drop the scratch files."""
        record = {"stage": stage, "options": options, **record}
        write_json(self.path / WORK / f"{stage}.json", record)
        shutil.rmtree(self.scratch(stage), ignore_errors=True)
        return record

    def record(self, stage: str) -> dict[str, Any] | None:
        """Record of a finished stage, or `None`."""
        path = self.path / WORK / f"{stage}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def _compare(self, stage: str, before: dict[str, Any], now: dict[str, Any]) -> None:
        now = json.loads(json.dumps(now))  # as it would come back from disk
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.path}: its {stage} was started with {_difference(name, before, now)}: "
                    "use the same options, another --out, or remove the folder"
                )


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    if name == "inputs":
        return "other input files (or they changed since)"
    return f"{name} {before.get(name)}, not {now.get(name)}"


@contextmanager
def open_folder(path: Path) -> Iterator[OutputFolder]:
    """Make or reopen an output folder and hold its lock.

    Raises `OutputError` when `path` is a file or holds something that is not ours, and `ConfigError`
    when another process works in it.
    """
    work = path / WORK
    try:
        if path.exists() and not work.is_dir() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(
                f"{path}: holds something else than pinglm output: choose an empty or new folder"
            )
        work.mkdir(parents=True, exist_ok=True)
        lock = open(work / "lock", "w")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be made or written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{path}: another pinglm process is working in this folder") from None
        yield OutputFolder(path)
