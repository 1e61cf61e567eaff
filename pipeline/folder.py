"""The output folder: who owns it, who is working in it, and which stages are finished.

    DIR/.pinglm/lock                     held while a process works here
    DIR/.pinglm/<stage>/options.json     what an unfinished stage was started with
    DIR/.pinglm/<stage>/units/*.json     its finished units (`pipeline.units`)
    DIR/.pinglm/<stage>/...              its scratch files
    DIR/.pinglm/<stage>.json             a finished stage's record, written last

A stage that is run again with the same options continues where it stopped, or is already finished. With
other options it is refused, so that one folder never mixes two runs. Units are not synced to disk one by
one; a stage's outputs are, just before its record is written. So a stage that was killed continues, but
one that lost power starts over. So does one whose record or options cannot be read, and then every stage
that comes after it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from pipeline.records import (
    STAGES,
    StageRecord,
    StartedStage,
    read_json,
    read_json_if_whole,
    to_json,
)
from stores.errors import ConfigError, OutputError
from stores.files import TEMPORARY_SUFFIX, sync_file, write_json
from stores.folder_lock import claim_folder

WORK = ".pinglm"
WORK_VERSION = 1
"""Increase it when scratch files or units change their meaning: unfinished work of another version is
refused."""

R = TypeVar("R", bound=StageRecord)


@dataclass(frozen=True)
class OutputFolder:
    """A folder that `open_folder` has locked for this process."""

    path: Path

    def scratch(self, stage: str) -> Path:
        """Folder for the scratch files of an unfinished stage."""
        return self.path / WORK / stage

    def has_begun(self, kind: type[StageRecord]) -> bool:
        """Whether a stage was started here, finished or not."""
        return self._record_path(kind).exists() or self.scratch(kind.STAGE).exists()

    def begin(self, kind: type[R], options: dict[str, Any]) -> R | None:
        """Return the stage's record if it is already finished with these `options` (JSON-able); otherwise
        note the options and return `None`.

        Raises `ConfigError` when the folder was made with other options, naming the first that differs, and
        `OutputError` when outputs of the finished stage are missing or have another size.
        """
        stage = kind.STAGE
        noted = self.scratch(stage) / "options.json"
        now = {"version": WORK_VERSION, **json.loads(json.dumps(options))}
        record = read_json_if_whole(self._record_path(kind), kind)
        if record is not None:
            self._compare(stage, record.options, now)
            self._check_outputs(record)
            shutil.rmtree(self.scratch(stage), ignore_errors=True)
            return record
        if self._record_path(kind).exists():
            self._forget(STAGES[STAGES.index(kind) :])
        before = read_json_if_whole(noted, StartedStage)
        if before is not None:
            self._compare(stage, before.options, now)
            if before.boot == _boot_id():
                return None
        shutil.rmtree(self.scratch(stage), ignore_errors=True)
        write_json(noted, to_json(StartedStage(now, _boot_id())))
        return None

    def finish(self, record: R) -> R:
        """Sync the outputs, write the record, and drop the scratch files; return the record as written.

        From the moment the record is written, the stage counts as finished.
        """
        outputs = [self.path / output.path for output in record.outputs]
        rejects = (self.path / "rejected").glob(f"{record.STAGE}-*")
        truth = (self.path / "truth").glob("*")  # of `simulate`
        for path in (*outputs, *rejects, *truth):
            sync_file(path)
        record = replace(record, options={"version": WORK_VERSION, **record.options})
        write_json(self._record_path(type(record)), to_json(record))
        shutil.rmtree(self.scratch(record.STAGE), ignore_errors=True)
        written = self.record(type(record))
        assert written is not None
        return written

    def record(self, kind: type[R]) -> R | None:
        """The record of a finished stage, or `None`. Raises `OutputError` when it is damaged."""
        path = self._record_path(kind)
        return read_json(path, kind) if path.exists() else None

    def _forget(self, stages: Sequence[type[StageRecord]]) -> None:
        """Make these stages unfinished."""
        for kind in stages:
            self._record_path(kind).unlink(missing_ok=True)
            shutil.rmtree(self.scratch(kind.STAGE), ignore_errors=True)

    def _record_path(self, kind: type[StageRecord]) -> Path:
        return self.path / WORK / f"{kind.STAGE}.json"

    def _compare(self, stage: str, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in sorted(before.keys() | now.keys()):
            if not _agree(name, before.get(name), now.get(name)):
                raise ConfigError(
                    f"{self.path}: its {stage} was started with {_difference(name, before, now)}: "
                    "use the same options, another --out, or remove the folder"
                )

    def _check_outputs(self, record: StageRecord) -> None:
        for output in record.outputs:
            path = self.path / output.path
            found = path.stat().st_size if path.is_file() else None
            if found != output.size:
                state = "is missing" if found is None else f"has {found} bytes, not {output.size},"
                raise OutputError(
                    f"{path}: {state} although {record.STAGE} had finished: "
                    "remove the output folder and run again"
                )


def _agree(name: str, before: Any, now: Any) -> bool:
    """Whether an option is what it was. Earlier versions also noted when a table in the folder itself was
    written, which is not so any more in a copy of the folder."""
    if name == "inputs" and before and now and len(before) == len(now):
        return all(old[: len(new)] == new for old, new in zip(before, now, strict=True))
    return bool(before == now)


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    if name == "inputs":
        names = [{entry[0] for entry in files.get(name) or ()} for files in (before, now)]
        differing = sorted(names[0] ^ names[1]) or [
            new[0]
            for old, new in zip(before[name], now[name], strict=True)
            if old[: len(new)] != new
        ]
        return f"other input files (or they changed since), the first of them {differing[0]}"
    return f"{name} {before.get(name)}, not {now.get(name)}"


@contextmanager
def open_folder(path: Path) -> Iterator[OutputFolder]:
    """Create or reopen an output folder, hold its lock, and remove what killed writers left behind.

    Raises `OutputError` when `path` is a file or holds anything other than pinglm output, and
    `ConfigError` when another process is working in it.
    """
    path = path.resolve()
    with claim_folder(
        path,
        marker=WORK,
        lock=f"{WORK}/lock",
        foreign="holds something other than pinglm output: choose an empty or a new folder",
        busy="another pinglm process is working in this folder",
    ):
        for leftover in path.rglob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        yield OutputFolder(path)


def _boot_id() -> str:
    """Changes whenever the machine boots; the host name where the system has no boot id."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return os.environ.get("HOSTNAME", "")
