"""The output folder: whose it is, who works in it, and which stages are finished.

    DIR/.pinglm/lock                     held while a process works here
    DIR/.pinglm/<stage>/options.json     what an unfinished stage was started with
    DIR/.pinglm/<stage>/units/*.json     its finished units (`pipeline.units`)
    DIR/.pinglm/<stage>/...              its scratch files
    DIR/.pinglm/<stage>.json             a finished stage's record, written last

A stage that runs again with the same options continues, or is already finished; with other options it
is refused, so that one folder never mixes two runs. Units are not synced to disk one by one: a stage's outputs
are, before its record is written. So a killed stage continues, but one that lost power starts over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.errors import ConfigError, OutputError
from stores.files import TEMPORARY_SUFFIX, sync_file, write_json
from stores.folder_lock import claim_folder

WORK = ".pinglm"
WORK_VERSION = 1
"""Raise it when scratch files or units change their meaning: unfinished work of another version is refused."""


@dataclass(frozen=True)
class OutputFolder:
    """A folder that `open_folder` has locked for this process."""

    path: Path

    def scratch(self, stage: str) -> Path:
        """Scratch folder of an unfinished stage."""
        return self.path / WORK / stage

    def begin(self, stage: str, options: dict[str, Any]) -> dict[str, Any] | None:
        """The stage's record if it is finished with these `options` (JSON-able), else `None` after
        noting them.

        Raises `ConfigError` when the folder was made with other options, naming the first that differs, and
        `OutputError` when outputs of the finished stage are gone or have another size.
        """
        noted = self.scratch(stage) / "options.json"
        now = {"version": WORK_VERSION, **json.loads(json.dumps(options))}
        record = self.record(stage)
        if record is not None:
            self._compare(stage, record["options"], now)
            self._outputs_exist(stage, record)
            shutil.rmtree(self.scratch(stage), ignore_errors=True)
            return record
        if noted.exists():
            before = json.loads(noted.read_bytes())
            self._compare(stage, before["options"], now)
            if before["boot"] == _boot_id():
                return None
            shutil.rmtree(self.scratch(stage))
        write_json(noted, {"options": now, "boot": _boot_id()})
        return None

    def finish(self, stage: str, options: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        """Sync the outputs, write the record (the stage counts as finished from here on), drop the scratch.

        `record["outputs"]` lists {"path" relative to DIR, "size"}.
        """
        for output in record["outputs"]:
            sync_file(self.path / output["path"])
        record = {"stage": stage, "options": {"version": WORK_VERSION, **options}, **record}
        write_json(self.path / WORK / f"{stage}.json", record)
        shutil.rmtree(self.scratch(stage), ignore_errors=True)
        written = self.record(stage)
        assert written is not None
        return written

    def record(self, stage: str) -> dict[str, Any] | None:
        """Record of a finished stage, or `None`."""
        path = self.path / WORK / f"{stage}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def _compare(self, stage: str, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.path}: its {stage} was started with {_difference(name, before, now)}: "
                    "use the same options, another --out, or remove the folder"
                )

    def _outputs_exist(self, stage: str, record: dict[str, Any]) -> None:
        for output in record["outputs"]:
            path = self.path / output["path"]
            found = path.stat().st_size if path.is_file() else None
            if found != output["size"]:
                state = "is gone" if found is None else f"has {found} bytes, not {output['size']}"
                raise OutputError(
                    f"{path}: {state} since {stage} was finished: "
                    "remove the output folder and run again"
                )


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    if name == "inputs":
        return "other input files (or they changed since)"
    return f"{name} {before.get(name)}, not {now.get(name)}"


@contextmanager
def open_folder(path: Path) -> Iterator[OutputFolder]:
    """Make or reopen an output folder, hold its lock, and remove what killed writers left.

    Raises `OutputError` when `path` is a file or holds something that is not ours, and `ConfigError`
    when another process works in it.
    """
    path = path.resolve()
    with claim_folder(
        path,
        marker=WORK,
        lock=f"{WORK}/lock",
        foreign="holds something else than pinglm output: choose an empty or new folder",
        busy="another pinglm process is working in this folder",
    ):
        for leftover in path.rglob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        yield OutputFolder(path)


def _boot_id() -> str:
    """Changes when the machine starts anew; empty where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return os.environ.get("HOSTNAME", "")
